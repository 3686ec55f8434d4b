"""How much of a file is read at most, before anything looks at what it holds."""

import errno
import os
from pathlib import Path
from typing import BinaryIO


def read_at_most(path: Path, most: int) -> bytes:
    """Read the whole content of a file.

    Raises:
        OSError: it cannot be read, or holds more than ``most`` bytes; ``strerror`` says which.
    """
    try:
        with path.open("rb") as file:
            content = _content(file, most + 1)
    except ValueError as error:  # a path that no system takes, such as one with NUL
        raise OSError(errno.EINVAL, str(error), str(path)) from error
    if len(content) > most:
        raise OSError(errno.EFBIG, f"it holds more than {most:,} bytes, which no file of this kind does", str(path))
    return content


def _content(file: BinaryIO, most: int) -> bytes:
    """Read at most so many bytes, and ask for what is there: Python takes memory for all that it is asked for."""
    size = os.fstat(file.fileno()).st_size
    content = file.read(min(size + 1, most))
    while len(content) < most and (
        more := file.read(min(1 << 20, most - len(content)))
    ):  # of a pipe, or a file that grows
        content += more
    return content

"""How much of a file is read at most, before anything looks at what it holds."""

import errno
from pathlib import Path


def read_at_most(path: Path, most: int) -> bytes:
    """The whole content of a file.

    Raises:
        OSError: it cannot be read, or holds more than ``most`` bytes; ``strerror`` says which.
    """
    try:
        with path.open("rb") as file:
            content = file.read(most + 1)
    except ValueError as error:  # a path that no system takes, such as one with NUL
        raise OSError(errno.EINVAL, str(error), str(path)) from error
    if len(content) > most:
        raise OSError(errno.EFBIG, f"it holds more than {most:,} bytes, which no file of this kind does", str(path))
    return content

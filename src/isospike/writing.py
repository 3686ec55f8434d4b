"""Files that are written whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from isospike.errors import RunFailed


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Hand out a path beside ``path`` to write to, and put what was written in its place at the end of the block.

    Whatever ends the block early, the file that was there stays as it was, and nothing is left beside it.

    Raises:
        RunFailed: the disk does not take it.
    """
    part = path.with_name(path.name + ".part")
    try:
        yield part
        os.replace(part, path)
    except OSError as error:
        raise cannot_write(path, error, kept="; the one before is intact" if path.is_file() else "") from error
    finally:
        with suppress(OSError):  # it has become the file, or was never there
            part.unlink()


def cannot_write(path: Path, error: OSError, *, kept: str = "") -> RunFailed:
    """Return the sentence about a file that the disk does not take, and what of it is ``kept``."""
    return RunFailed(f"cannot write {path}: {error.strerror or error}{kept}")

"""Frames of many recordings in one file, made once, and checked whenever they are read.

The file holds the counts of one recording after the other, each in the narrowest integers that hold them, and an index.
"""

import fcntl
import hashlib
import json
import mmap
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from isospike.errors import DataError
from isospike.events.frames import Frames
from isospike.limits import read_at_most
from isospike.writing import atomic_write, cannot_write

VERSION = 2  # of the file; another one is another key
NARROW = ("u1", "u2", "u4")
TRAILER = 12  # bytes behind the index: its length and its checksum
LARGEST_MEMO = 100_000_000  # bytes


class FrameFile:
    """Frames by the number of their recording; ``empty`` of them have no event.

    Args:
        path: The file.
        key: What it must hold, as of ``key_of``.

    Raises:
        DataError: it is damaged, or holds something else.
    """

    def __init__(self, path: Path, key: str) -> None:
        self.path, self._key = path, key
        try:
            with path.open("rb") as file:
                self._content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            end = len(self._content) - TRAILER
            length, checksum = np.frombuffer(self._content[end:], "<u8,<u4")[0].tolist()
            text = self._content[end - length : end]
            if zlib.crc32(text) != checksum:
                raise ValueError("its index is not what was written")
            index = json.loads(text)
        except (OSError, ValueError, IndexError) as error:
            raise DataError(f"the cache {path} cannot be used ({error}): delete it, and it is made again") from error
        if index["key"] != key:
            raise DataError(f"the cache {path} holds other recordings than its name says: delete it")
        self.shape = tuple(index["shape"])
        self.empty: int = index["empty"]
        self._rows = index["rows"]

    def __reduce__(self) -> tuple[type["FrameFile"], tuple[Path, str]]:
        """Tell another process to map the file itself."""
        return FrameFile, (self.path, self._key)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, number: int) -> npt.NDArray[np.unsignedinteger[Any]]:
        """Return the frames ``[T, 2, height, width]`` of the recording with this number.

        Raises:
            DataError: it is not what was written.
        """
        start, code, checksum = self._rows[number]
        end = start + int(np.prod(self.shape)) * np.dtype(code).itemsize
        content = self._content[start:end]
        if zlib.crc32(content) != checksum:
            raise DataError(f"the cache {self.path} is damaged in recording {number}: delete it, and it is made again")
        return np.frombuffer(content, "<" + code).reshape(self.shape)


def key_of(contents: Iterable[str], parameters: Mapping[str, Any]) -> str:
    """Name the frames of recordings with these digests, made with these parameters; any change changes it."""
    parts = {"version": VERSION, "contents": list(contents), "parameters": dict(parameters)}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def cached_frames(folder: Path, key: str, recordings: Callable[[], Iterable[tuple[int, Frames]]]) -> FrameFile:
    """Return the file of ``key`` in ``folder``, made where it is not there.

    Of several processes that want the same, one makes it and the others wait.

    Args:
        folder: Made where it is not there.
        key: As of ``key_of``.
        recordings: Gives the number of every recording, from 0 on and in any order, with its frames, all of one shape.

    Raises:
        DataError: the file is damaged.
        RunFailed: the disk does not take it.
    """
    path = folder / f"{key[:32]}.frames"
    with _locked(folder, f"{key[:32]}.lock"):
        if not path.is_file():
            with atomic_write(path) as part:
                _write(part, key, recordings())
    return FrameFile(path, key)


@contextmanager
def _locked(folder: Path, name: str) -> Iterator[None]:
    """Wait until no other process is in this block; the system opens it when a process ends, however it does."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / name).open("w")
    except OSError as error:
        raise cannot_write(folder / name, error) from error
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _write(path: Path, key: str, recordings: Iterable[tuple[int, Frames]]) -> None:
    rows: dict[int, tuple[int, str, int]] = {}
    shape: tuple[int, ...] = ()
    empty = 0
    with path.open("wb") as file:
        for number, frames in recordings:
            shape = frames.shape
            code = next(code for code in NARROW if frames.max(initial=0) <= np.iinfo(code).max)
            content = frames.astype("<" + code).tobytes()
            rows[number] = (file.tell(), code, zlib.crc32(content))
            empty += int((~frames.any(axis=(1, 2, 3))).sum())
            file.write(content)
        in_order = [rows[number] for number in range(len(rows))]
        index = {"key": key, "shape": shape, "empty": empty, "rows": in_order}
        text = json.dumps(index).encode()
        file.write(text + np.array([(len(text), zlib.crc32(text))], "<u8,<u4").tobytes())


def digests(folder: Path, paths: Iterable[Path]) -> dict[Path, str]:
    """Return the SHA-256 of the content of each file.

    What a file had is kept in ``folder``: one whose size and time of change are still the same is not read again.

    Raises:
        DataError: a file cannot be read.
        RunFailed: the disk does not take what is kept.
    """
    memo_path = folder / "digests.json"
    with _locked(folder, "digests.lock"):
        memo, found = _memo(memo_path), {}
        for path in paths:
            try:
                seen = path.stat()
                known = memo.get(str(path.resolve()))
                stamp = [seen.st_size, seen.st_mtime_ns]
                if not (isinstance(known, list) and known[:2] == stamp and len(known) == 3):
                    with path.open("rb") as file:
                        known = [*stamp, hashlib.file_digest(file, "sha256").hexdigest()]
                    memo[str(path.resolve())] = known
            except OSError as error:
                raise DataError(f"{path} cannot be read: {error.strerror}") from error
            found[path] = str(known[2])
        with atomic_write(memo_path) as part:
            part.write_text(json.dumps(memo))
    return found


def _memo(path: Path) -> dict[str, Any]:
    """Return what was kept; nothing where it cannot be read, for it only saves time."""
    try:
        memo = json.loads(read_at_most(path, LARGEST_MEMO))
    except (OSError, ValueError):
        return {}
    return memo if isinstance(memo, dict) else {}

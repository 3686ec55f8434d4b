"""Files of a data set as it was downloaded: in folders, or still in the archives that they came in."""

import lzma
import re
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from isospike.errors import DataError
from isospike.events.read import LARGEST_FILE
from isospike.limits import read_at_most
from isospike.text import brief

ZIP, TAR = (".zip",), (".tar", ".tar.gz", ".tgz", ".tar.xz")
BROKEN = (
    OSError, EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, tarfile.TarError, RuntimeError,
    NotImplementedError,
)  # fmt: skip


@dataclass(frozen=True)
class DataFile:
    """A file on the disk or in an archive.

    Args:
        name: Its path below the folder of the data set, with ``/``; in an archive as if that were unpacked there.
        path: Of the file, or of the archive that it is in.
        packed: Whether it is in an archive.
    """

    name: str
    path: Path
    packed: bool = False

    def __str__(self) -> str:
        return f"{self.path}: {self.name}" if self.packed else str(self.path)


def list_files(root: Path) -> list[DataFile]:
    """List all files below a folder and in its archives, by name; of equal names the one that is unpacked.

    Raises:
        DataError: an archive is damaged, or holds another one that is not unpacked beside it.
    """
    found: dict[str, DataFile] = {}
    archives = [path for path in sorted(root.rglob("*")) if path.name.endswith(ZIP + TAR)]
    for path in archives:
        names = _names(path)
        _refuse_nested(path, names, {archive.name for archive in archives})
        for name in names:
            found.setdefault(name, DataFile(name, path, packed=True))
    for path in sorted(root.rglob("*")):
        if path.is_file() and not path.name.endswith(ZIP + TAR):
            name = path.relative_to(root).as_posix()
            found[name] = DataFile(name, path)
    return [found[name] for name in sorted(found)]


def _refuse_nested(path: Path, names: list[str], unpacked: set[str]) -> None:
    nested = [name for name in names if name.endswith(ZIP + TAR) and Path(name).name not in unpacked]
    if nested:
        raise DataError(
            f"{path} holds an archive, {brief(nested[0])}: unpack {path.name} where it lies; archives "
            "in it need not be unpacked"
        )


def by_end(files: list[DataFile], pattern: str) -> dict[tuple[str, ...], DataFile]:
    """Find the files whose path ends as a regular expression says, by the groups in it.

    Of a file that lies in its archive and unpacked beside it, the unpacked one is taken.

    Raises:
        DataError: two others have the same end.
    """
    end = re.compile(rf"(?:^|/){pattern}$")
    found: dict[tuple[str, ...], DataFile] = {}
    for file in files:
        if matched := end.search(file.name):
            other = found.setdefault(matched.groups(), file)
            if other is not file and other.packed == file.packed:
                raise DataError(f"{other} and {file} are both {matched[0].lstrip('/')}: leave one of them away")
            if other.packed:
                found[matched.groups()] = file
    return found


def contents(files: list[DataFile]) -> Iterator[tuple[DataFile, bytes]]:
    """Yield every file with its content, archive by archive, and in each in the order that it has.

    Raises:
        DataError: one cannot be read.
    """
    archives: dict[Path, dict[str, DataFile]] = {}
    for file in files:
        if file.packed:
            archives.setdefault(file.path, {})[file.name] = file
        else:
            yield file, _read(file.path)
    for path, wanted in archives.items():
        for name, content in _members(path, set(wanted)):
            yield wanted[name], content


def _read(path: Path) -> bytes:
    try:
        return read_at_most(path, LARGEST_FILE)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error


def _names(path: Path) -> list[str]:
    try:
        if path.name.endswith(ZIP):
            with zipfile.ZipFile(path) as archive:
                return [info.filename for info in archive.infolist() if not info.is_dir()]
        with tarfile.open(path) as packed:
            return [member.name.removeprefix("./") for member in packed if member.isfile()]
    except BROKEN as error:
        raise DataError(f"{path} cannot be read as an archive ({brief(str(error))}): is it whole?") from error


def _members(path: Path, wanted: set[str]) -> Iterator[tuple[str, bytes]]:
    try:
        if path.name.endswith(ZIP):
            with zipfile.ZipFile(path) as archive:
                for name in archive.namelist():
                    if name in wanted:
                        yield name, archive.read(name)
            return
        with tarfile.open(path) as packed:
            for member in packed:
                file = packed.extractfile(member) if member.name.removeprefix("./") in wanted else None
                if file is not None:
                    yield member.name.removeprefix("./"), file.read()
    except BROKEN as error:
        raise DataError(f"{path} cannot be read as an archive ({brief(str(error))}): is it whole?") from error

"""A recording from a file of any format, found from its content."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from isospike.errors import DataError
from isospike.events import aedat, aedat4, plain, prophesee
from isospike.events.recording import Decoded, Events
from isospike.limits import read_at_most
from isospike.registry import Registry

LARGEST_FILE = 8_000_000_000  # bytes


@dataclass(frozen=True)
class Format:
    """A format of files.

    Args:
        recognises: Whether the content is of it.
        decode: From content and what to call it in errors to its events; also takes a ``Piece`` where ``in_pieces``.
        in_pieces: Whether it can be read part by part.
    """

    recognises: Callable[[bytes], bool]
    decode: Callable[..., Decoded]
    in_pieces: bool = True


# In the order in which they are asked; the last has no mark of its own.
FORMATS: Registry[Format] = Registry("format of events")
FORMATS.register("aedat2", Format(lambda content: content.startswith(b"#!AER-DAT2."), aedat.read_aedat2))
FORMATS.register("aedat3", Format(lambda content: content.startswith(b"#!AER-DAT3."), aedat.read_aedat3))
FORMATS.register("aedat4", Format(lambda content: content.startswith(b"#!AER-DAT4."), aedat4.read_aedat4))
FORMATS.register("raw", Format(prophesee.looks_like_raw, prophesee.read_raw))
FORMATS.register("dat", Format(lambda content: content.startswith(b"% "), prophesee.read_dat))
FORMATS.register("npz", Format(lambda content: content.startswith(b"PK\x03\x04"), plain.read_npz, False))
FORMATS.register("npy", Format(lambda content: content.startswith(b"\x93NUMPY"), plain.read_npy, False))
FORMATS.register("hdf5", Format(lambda content: content.startswith(b"\x89HDF\r\n\x1a\n"), plain.read_hdf5, False))
FORMATS.register("text", Format(plain.looks_like_text, plain.read_text))
FORMATS.register("bits40", Format(plain.looks_like_bits40, plain.read_bits40))


def read(
    path: str | Path, *, format: str | None = None, sensor: tuple[int, int] | None = None, sort: bool = False
) -> Events:
    """Read a recording.

    Args:
        path: The file.
        format: Name in ``FORMATS``; None finds it from the content.
        sensor: Width and height, where the file does not say them.
        sort: Bring events into the order of their time, where some of them are not.

    Raises:
        DataError: not readable, damaged, of no known format, time that goes back, or an event outside of the sensor;
            names file, event and offset.
        UnknownName: there is no such format.
        MissingExtra: the format needs a package that is not installed.
    """
    path = Path(path)
    try:
        content = read_at_most(path, LARGEST_FILE)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
    return decode(content, str(path), format=format, sensor=sensor, sort=sort)


def decode(
    content: bytes, where: str, *, format: str | None = None, sensor: tuple[int, int] | None = None, sort: bool = False
) -> Events:
    """Return the same of the content of a file, which errors call ``where``."""
    decoded = FORMATS[format or format_of(content, where)].decode(content, where)
    return (decoded.sorted() if sort else decoded).checked(where, sensor)


def format_of(content: bytes, where: str) -> str:
    """Return the name of the format of a file, by its content or the beginning of that.

    Raises:
        DataError: it is none of them.
    """
    for name in FORMATS:
        if FORMATS[name].recognises(content):
            return name
    raise DataError(f"{where} is in no known format of events: name one with format=, of {', '.join(FORMATS)}")

"""A recording of any length, read part by part in memory that does not grow."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from isospike.errors import DataError
from isospike.events.order import InOrder
from isospike.events.plain import looks_like_text
from isospike.events.read import FORMATS, LARGEST_FILE, format_of
from isospike.events.recording import Decoded, Events, HeaderGoesOn, Piece

BLOCK = 2**18  # bytes that are asked for at a time; a pipe gives what it has
FIRST = 13 * 5 * 2**10  # bytes by which a format is found, a whole number of events of 40 bits
LARGEST_UNIT = 64_000_000  # bytes of one packet, or of a header


def read_pieces(
    source: str | Path | BinaryIO,
    *,
    format: str | None = None,
    sensor: tuple[int, int] | None = None,
    late: int = 0,
    where: str | None = None,
) -> Iterator[Events]:
    """Read a recording part by part, as it arrives: a file, or what comes out of a pipe.

    The parts together are what ``read`` gives, with ``sort=True`` where events may be late. Memory stays the same
    however long the recording is, but for the formats ``npz``, ``npy`` and ``hdf5``, which are read whole.

    Args:
        source: A path, or a binary file that is open, whose ``read1`` gives what is there.
        format: Name in ``FORMATS``; None finds it from the first 65 KB, or the first line of text.
        sensor: Width and height, where the file does not say them.
        late: By how many microseconds an event may lie before the latest one in front of it.
        where: What the recording is called in errors; None: its path or name.

    Raises:
        DataError: as of ``read``; what came before the fault has been given by then.
        UnknownName: there is no such format.
        MissingExtra: the format needs a package that is not installed.
    """
    if format is not None:
        FORMATS[format]
    if isinstance(source, str | Path):
        try:
            with Path(source).open("rb") as file:
                yield from _events(file, format, sensor, late, where or str(source))
        except OSError as error:
            raise DataError(f"{source} cannot be read: {error.strerror or error}") from error
    else:
        yield from _events(source, format, sensor, late, where or str(getattr(source, "name", "a stream")))


def _events(
    file: BinaryIO, format: str | None, sensor: tuple[int, int] | None, late: int, where: str
) -> Iterator[Events]:
    first, ended = (b"", False) if format is not None else _beginning(file)
    name = format or format_of(first, where)
    order = InOrder(late, where)
    parts = _decoded(file, first, ended, name, where) if FORMATS[name].in_pieces else _whole(file, first, name, where)
    for decoded in parts:
        yield order.add(decoded, sensor)
    yield order.end()


def _beginning(file: BinaryIO) -> tuple[bytes, bool]:
    """Read so much that the format can be told, and return whether that is all."""
    content = b""
    while len(content) < FIRST:
        block = _block(file, FIRST - len(content))
        content += block
        if not block:
            return content, True
        if looks_like_text(content[: content.rfind(b"\n") + 1]):
            break
    return content, False


def _decoded(file: BinaryIO, first: bytes, ended: bool, format: str, where: str) -> Iterator[Decoded]:
    """Yield what is decoded part by part; what is no whole event, packet or line goes in front of the next block."""
    content, piece = first, Piece(last=ended)
    while True:
        try:
            decoded = FORMATS[format].decode(content, where, piece)
        except HeaderGoesOn:
            header, taken, state = None, 0, None
        else:
            yield decoded
            header, state = decoded.header, decoded.state
            taken = len(content) if decoded.taken is None else decoded.taken
        if piece.last:
            return
        rest = content[taken:]
        if len(rest) > LARGEST_UNIT:
            place = f"what begins at byte {piece.shift + taken:,}"
            raise DataError(f"{where}: {place} does not end within {LARGEST_UNIT:,} bytes, as all does in this format")
        block = _block(file, BLOCK, least=len(rest) - BLOCK)
        again = content[: header or 0]
        piece = Piece(header, piece.shift + taken - len(again), state, last=not block)
        content = again + rest + block


def _whole(file: BinaryIO, first: bytes, format: str, where: str) -> Iterator[Decoded]:
    content = io.BytesIO()
    content.write(first)
    while block := _block(file, BLOCK):
        content.write(block)
        if content.tell() > LARGEST_FILE:
            raise DataError(f"{where} holds more than {LARGEST_FILE:,} bytes, and its format is read whole")
    yield FORMATS[format].decode(content.getvalue(), where)


def _block(file: BinaryIO, most: int, least: int = 0) -> bytes:
    """Return what is there, up to so many bytes; nothing where it has ended.

    In front of a packet that is larger than a block stands so much already that it would be copied over and over:
    then at least so much is waited for.
    """
    read = file.read1 if hasattr(file, "read1") else file.read
    blocks, size = [read(most)], 0
    while blocks[-1] and (size := size + len(blocks[-1])) < least:
        blocks.append(read(most))
    return b"".join(blocks)

"""AEDAT 4, which DV writes: packets of FlatBuffers, compressed one by one.

Source: iniVation's "AEDAT file formats" and the schemas of dv-processing. Read by code of our own, with bounds: the
package ``aedat`` 2.3.0 ends the process on some damaged files.
"""

import struct
from collections.abc import Iterator
from typing import Any
from xml.etree import ElementTree

import numpy as np
import numpy.typing as npt

from isospike.errors import DataError
from isospike.events.recording import WHOLE, Decoded, HeaderGoesOn, Piece
from isospike.optional import import_optional
from isospike.text import brief

MAGIC = b"#!AER-DAT4.0\r\n"
CODECS = {0: None, 1: "lz4", 2: "lz4", 3: "zstd", 4: "zstd"}
LARGEST_PACKET = 64_000_000  # bytes; DV writes one every few milliseconds
PART = 2**18  # bytes that are asked for at a time, as pyarrow makes room for them at once
EVENT = np.dtype([("t", "<i8"), ("x", "<i2"), ("y", "<i2"), ("p", "u1"), ("padding", "V3")])
EVENTS = "EVTS"  # the type of a stream of events, and the mark of their packets


class Table:
    """A table of a FlatBuffer, from which fields are read by number; what points outside raises ``struct.error``.

    Args:
        content: The buffer.
        at: Where in it the offset to the table stands.
    """

    def __init__(self, content: bytes, at: int) -> None:
        self.content = content
        self.start = at + self._read("<I", at)
        self.fields = self.start - self._read("<i", self.start)

    def number(self, field: int, code: str, default: int) -> int:
        """Return a field of one number."""
        at = self._place(field)
        return default if at is None else self._read(code, at)

    def vector(self, field: int, size: int) -> tuple[int, int]:
        """Return where the elements of a field begin, and how many of ``size`` bytes there are."""
        at = self._place(field)
        if at is None:
            return 0, 0
        at += self._read("<I", at)
        length = self._read("<I", at)
        if at + 4 + length * size > len(self.content):
            raise struct.error("a vector goes beyond the end")
        return at + 4, length

    def _place(self, field: int) -> int | None:
        entry = 4 + 2 * field
        if entry + 2 > self._read("<H", self.fields):
            return None
        offset = self._read("<H", self.fields + entry)
        return self.start + offset if offset else None

    def _read(self, code: str, at: int) -> int:
        if at < 0:
            raise struct.error("an offset goes beyond the start")
        return int(struct.unpack_from(code, self.content, at)[0])


def read_aedat4(content: bytes, where: str, piece: Piece = WHOLE) -> Decoded:
    """Return the events of the first stream of events.

    Raises:
        DataError: damaged, cut short, or without such a stream.
        MissingExtra: the packets are compressed and pyarrow is not installed.
    """
    start = len(MAGIC)
    try:
        end_of_header = start + 4 + (struct.unpack_from("<I", content, start)[0] if len(content) >= start + 4 else 0)
        if len(content) < end_of_header <= LARGEST_PACKET and not piece.last:
            raise HeaderGoesOn
        header = Table(content[:end_of_header], start + 4)
        compression, end = header.number(0, "<i", 0), header.number(1, "<q", -1)
        first, length = header.vector(2, 1)
        stream, sensor = _stream(content[first : first + length])
    except (struct.error, ElementTree.ParseError, ValueError) as error:
        raise DataError(f"{where}: the header behind byte {start} is damaged ({brief(str(error))})") from error
    if stream is None:
        raise DataError(f"{where} holds no stream of events")
    if compression not in CODECS:
        raise DataError(f"{where} is compressed in the unknown way {compression}")
    parts, places, taken = [np.zeros(0, EVENT)], [np.zeros(0, np.int64)], end_of_header
    for at, taken, of_stream in _packets(content, end_of_header, end, where, piece):
        if of_stream == stream:
            place = piece.shift + at
            parts.append(_events(content[at + 8 : taken], CODECS[compression], place, where))
            places.append(np.full(len(parts[-1]), place))
    events, of_event = np.concatenate(parts), np.concatenate(places)
    return Decoded(
        events["t"], events["x"], events["y"], events["p"], sensor, lambda event: int(of_event[event]),
        header=end_of_header, taken=len(content) if 0 <= end <= piece.shift + taken else taken,
    )  # fmt: skip


def _stream(text: bytes) -> tuple[int | None, tuple[int, int] | None]:
    """Return the number and the sensor of the first stream of events, by the description in XML."""
    found = []
    for node in ElementTree.fromstring(text.rstrip(b"\0").decode()).iterfind(".//node[@name='outInfo']/node"):
        values = {attribute.get("key"): attribute.text for attribute in node.iter("attr")}
        if values.get("typeIdentifier") == EVENTS:
            sides = values.get("sizeX"), values.get("sizeY")
            found.append((int(node.get("name", "")), (int(sides[0]), int(sides[1])) if sides[0] and sides[1] else None))
    return min(found, default=(None, None), key=lambda row: row[0])


def _packets(content: bytes, at: int, end: int, where: str, piece: Piece) -> Iterator[tuple[int, int, int]]:
    """Yield where every whole packet begins and ends, with its stream.

    ``end`` is where in the file the table of packets begins; -1: there is none.
    """
    stop = len(content) if end < 0 else end - piece.shift
    if piece.last and stop > len(content):
        held = piece.shift + len(content)
        raise DataError(f"{where} holds {held:,} bytes, and its packets end at byte {end:,}: is it whole?")
    while at < stop:
        place, head = piece.shift + at, at + 8 <= min(stop, len(content))
        stream, size = struct.unpack_from("<ii", content, at) if head else (0, 0)
        if size < 0:
            raise DataError(f"{where}: what stands at byte {place:,} is not the header of a packet")
        after = at + 8 + size
        if after > stop and (piece.last or end >= 0):
            raise DataError(f"{where} ends within its last packet, which begins at byte {place:,}: is it whole?")
        if after > len(content):
            return
        yield at, after, stream
        at = after


def _events(packet: bytes, codec: str | None, at: int, where: str) -> npt.NDArray[Any]:
    try:
        buffer = packet if codec is None else _decompressed(packet, codec)
        if buffer[8:12] != EVENTS.encode():
            raise ValueError("it does not hold events")
        start, length = Table(buffer, 4).vector(0, EVENT.itemsize)
    except (OSError, ValueError, struct.error) as error:
        raise DataError(f"{where}: the packet at byte {at:,} is damaged ({brief(str(error))})") from error
    return np.frombuffer(buffer, EVENT, length, start)


def _decompressed(packet: bytes, codec: str) -> bytes:
    pyarrow = import_optional("pyarrow", extra="events", purpose="AEDAT 4")
    with pyarrow.input_stream(pyarrow.BufferReader(packet), compression=codec) as stream:
        content = bytearray()
        while part := stream.read(PART):
            content += part
            if len(content) > LARGEST_PACKET:
                raise ValueError(f"it holds more than {LARGEST_PACKET:,} bytes")
    return bytes(content)

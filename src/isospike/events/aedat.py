"""AEDAT of the versions 2.0, which jAER writes, and 3.1, of cAER.

Source: iniVation's "AEDAT file formats", and the chip classes of jAER for the addresses of version 2.
"""

import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from isospike.errors import DataError
from isospike.events.recording import WHOLE, Decoded, Piece, last_time, text_header, unwrapped, whole_units
from isospike.text import brief

# A line of the header; data may begin with the same byte, but hardly with a line of text.
HEADER_LINE = re.compile(rb"#[\t\x20-\x7e\x80-\xff]*\r?\n")
END_OF_HEADER = (b"#End Of ASCII Header\r\n", b"#!END-HEADER\r\n")
SENSORS = {
    "DVS128": (128, 128),
    "DAVIS128": (128, 128),
    "DAVIS240": (240, 180),
    "DAVIS346": (346, 260),
    "DVXPLORER": (640, 480),
}
PACKET = np.dtype(
    [(name, "<i2") for name in ("type", "source")]
    + [(name, "<i4") for name in ("size", "time_at", "overflows", "capacity", "number", "valid")]
)
POLARITY = 1  # the type of a packet of events; others hold frames, triggers and so on


@dataclass(frozen=True)
class Layout:
    """Where version 2 keeps an event in the 32 bits of an address.

    Args:
        sensor: Width and height.
        x: First bit and mask of the column, which jAER counts from the right.
        y: First bit and mask of the row, which jAER counts from below.
        p: Bit of the polarity.
        brighter: Value of that bit where the pixel became brighter.
        other: Bits that only words have which are no events of the sensor.
    """

    sensor: tuple[int, int]
    x: tuple[int, int]
    y: tuple[int, int]
    p: int
    brighter: int
    other: int


DVS128 = Layout((128, 128), x=(1, 0x7F), y=(8, 0x7F), p=0, brighter=0, other=0x8000)
DAVIS240 = Layout((240, 180), x=(12, 0x3FF), y=(22, 0x1FF), p=11, brighter=1, other=0x80000400)
DAVIS346 = Layout((346, 260), x=(12, 0x3FF), y=(22, 0x1FF), p=11, brighter=1, other=0x80000400)
LAYOUTS = {"DVS128": DVS128, "DAVIS240": DAVIS240, "DAVIS346": DAVIS346}


def read_aedat2(content: bytes, where: str, piece: Piece = WHOLE) -> Decoded:
    """Read version 2: big-endian words of 32 bits, an address and a time in turn.

    The header names the chip, whose addresses are known for DVS128, DAVIS240 and DAVIS346. Where it names none, as the
    oldest writers of jAER, the recording is taken for one of the DVS128, for which they were made.

    Raises:
        DataError: cut short, or of a chip whose addresses are not known.
    """
    header, start = text_header(content, HEADER_LINE, END_OF_HEADER, piece)
    layout = _layout(header, where)
    number = whole_units(content, start, 8, "event", where, piece)
    words = np.frombuffer(content, ">u4", 2 * number, start).reshape(-1, 2)
    events = np.flatnonzero(words[:, 0] & layout.other == 0)
    address = words[events, 0].astype(np.uint32)
    width = layout.sensor[0]
    t = unwrapped(words[events, 1], 32, piece.state)
    return Decoded(
        t=t,
        x=(width - 1 - (address >> layout.x[0] & layout.x[1]).astype(np.int64)),
        y=address >> layout.y[0] & layout.y[1],
        p=(address >> layout.p & 1) == layout.brighter,
        sensor=layout.sensor,
        offset=lambda event: piece.shift + start + 8 * int(events[event]),
        header=start,
        from_below=True,
        taken=start + 8 * number,
        state=last_time(t, piece.state),
    )


def _layout(header: bytes, where: str) -> Layout:
    named = re.search(rb"^#\s*AEChip:\s*(\S+)", header, re.MULTILINE)
    if named is None:
        return DVS128
    chip = named.group(1).decode("latin1")
    for name, layout in LAYOUTS.items():
        if name in chip.upper():
            return layout
    raise DataError(f"{where} is a recording of the chip {brief(chip)}; known are {', '.join(LAYOUTS)}")


def read_aedat3(content: bytes, where: str, piece: Piece = WHOLE) -> Decoded:
    """Read version 3.1: little-endian packets, of which those with events of the sensor are read.

    Events that are marked as invalid are left out.

    Raises:
        DataError: cut short, or a packet that contradicts itself; names the byte.
    """
    header, start = text_header(content, HEADER_LINE, END_OF_HEADER, piece)
    words, times, places = [], [], []
    packets, end = _packets(content, start, where, piece)
    for at, packet in packets:
        if packet["type"] != POLARITY:
            continue
        if packet["size"] != 8:
            named = f"the packet at byte {piece.shift + at:,}"
            raise DataError(f"{where}: {named} has events of {packet['size']} bytes, which are of 8")
        events = np.frombuffer(content, "<u4", 2 * int(packet["number"]), at + PACKET.itemsize).reshape(-1, 2)
        words.append(events[:, 0])
        times.append(events[:, 1].astype(np.int64) + (int(packet["overflows"]) << 31))
        places.append(piece.shift + at + PACKET.itemsize + 8 * np.arange(len(events)))
    word, t, place = (np.concatenate([np.zeros(0, np.int64), *parts]) for parts in (words, times, places))
    valid = word & 1 == 1
    word, place = word[valid], place[valid]
    return Decoded(
        t=t[valid],
        x=word >> 17 & 0x7FFF,
        y=word >> 2 & 0x7FFF,
        p=word >> 1 & 1,
        sensor=_source(header),
        offset=lambda event: int(place[event]),
        header=start,
        taken=end,
    )


def _packets(content: bytes, at: int, where: str, piece: Piece) -> tuple[list[tuple[int, Any]], int]:
    """Return the header of every whole packet and its place, and where the last one ends."""
    found = []
    while at < len(content):
        end = at + PACKET.itemsize
        if end <= len(content):
            packet = np.frombuffer(content, PACKET, 1, at)[0]
            if packet["size"] < 1 or not 0 <= packet["number"] <= packet["capacity"] or packet["overflows"] < 0:
                place = f"what stands at byte {piece.shift + at:,}"
                raise DataError(f"{where}: {place} is not the header of a packet")
            end += int(packet["size"]) * int(packet["capacity"])
        if end > len(content) and not piece.last:
            break
        if end > len(content):
            place = f"which begins at byte {piece.shift + at:,}"
            raise DataError(f"{where} ends within its last packet, {place}: is it whole?")
        found.append((at, packet))
        at = end
    return found, at


def _source(header: bytes) -> tuple[int, int] | None:
    """Return the sensor that version 3.1 names in its header."""
    named = re.search(rb"^#Source \d+: *(\w+)", header, re.MULTILINE)
    chip = named.group(1).decode("latin1").upper() if named else ""
    return next((sensor for name, sensor in SENSORS.items() if chip.startswith(name)), None)

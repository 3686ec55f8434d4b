"""AEDAT of the versions 2.0, which jAER writes, and 3.1, of cAER.

Source: iniVation's "AEDAT file formats", and the chip classes of jAER for the addresses of version 2.
"""

import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from isospike.errors import DataError
from isospike.events.recording import Decoded, check_whole, text_header, unwrapped
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
        y: First bit and mask of the row.
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


def read_aedat2(content: bytes, where: str) -> Decoded:
    """Return version 2: big-endian words of 32 bits, an address and a time in turn.

    The header names the chip, whose addresses are known for DVS128, DAVIS240 and DAVIS346. Where it names none, as the
    oldest writers of jAER, the recording is taken for one of the DVS128, for which they were made.

    Raises:
        DataError: cut short, or of a chip whose addresses are not known.
    """
    header, start = text_header(content, HEADER_LINE, END_OF_HEADER)
    layout = _layout(header, where)
    check_whole(content, start, 8, "event", where)
    words = np.frombuffer(content, ">u4", offset=start).reshape(-1, 2)
    events = np.flatnonzero(words[:, 0] & layout.other == 0)
    address = words[events, 0].astype(np.uint32)
    width = layout.sensor[0]
    return Decoded(
        t=unwrapped(words[events, 1], 32),
        x=(width - 1 - (address >> layout.x[0] & layout.x[1]).astype(np.int64)),
        y=address >> layout.y[0] & layout.y[1],
        p=(address >> layout.p & 1) == layout.brighter,
        sensor=layout.sensor,
        offset=lambda event: start + 8 * int(events[event]),
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


def read_aedat3(content: bytes, where: str) -> Decoded:
    """Return version 3.1: little-endian packets, of which those with events of the sensor are read.

    Events that are marked as invalid are left out.

    Raises:
        DataError: cut short, or a packet that contradicts itself; names the byte.
    """
    header, start = text_header(content, HEADER_LINE, END_OF_HEADER)
    words, times, places = [], [], []
    for at, packet in _packets(content, start, where):
        if packet["type"] != POLARITY:
            continue
        if packet["size"] != 8:
            raise DataError(f"{where}: the packet at byte {at:,} has events of {packet['size']} bytes, which are of 8")
        events = np.frombuffer(content, "<u4", 2 * int(packet["number"]), at + PACKET.itemsize).reshape(-1, 2)
        words.append(events[:, 0])
        times.append(events[:, 1].astype(np.int64) + (int(packet["overflows"]) << 31))
        places.append(at + PACKET.itemsize + 8 * np.arange(len(events)))
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
    )


def _packets(content: bytes, at: int, where: str) -> list[tuple[int, Any]]:
    """Return the header of every packet and its place."""
    found = []
    while at < len(content):
        if len(content) - at < PACKET.itemsize:
            raise DataError(f"{where} ends within its last packet, which begins at byte {at:,}: is it whole?")
        packet = np.frombuffer(content, PACKET, 1, at)[0]
        if packet["size"] < 1 or not 0 <= packet["number"] <= packet["capacity"] or packet["overflows"] < 0:
            raise DataError(f"{where}: what stands at byte {at:,} is not the header of a packet")
        end = at + PACKET.itemsize + int(packet["size"]) * int(packet["capacity"])
        if end > len(content):
            raise DataError(f"{where} ends within its last packet, which begins at byte {at:,}: is it whole?")
        found.append((at, packet))
        at = end
    return found


def _source(header: bytes) -> tuple[int, int] | None:
    """Return the sensor that version 3.1 names in its header."""
    named = re.search(rb"^#Source \d+: *(\w+)", header, re.MULTILINE)
    chip = named.group(1).decode("latin1").upper() if named else ""
    return next((sensor for name, sensor in SENSORS.items() if chip.startswith(name)), None)

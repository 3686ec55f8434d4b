"""Prophesee's files: DAT, and RAW in the encodings EVT 2.0, 2.1 and 3.0.

Source: Prophesee's "Data encoding formats". Read by code of our own: of the kept libraries, faery 0.7.1 moves times of
EVT 3.0 by up to 11 us, knows no EVT 2.1, and refuses DAT files of the N-Cars data set.
"""

import re
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from isospike.errors import DataError
from isospike.events.recording import Decoded, check_whole, text_header, unwrapped

HEADER_LINE = re.compile(rb"%[ ][\t\x20-\x7e]*\r?\n")
ENCODING = re.compile(rb"^% (?:evt |format EVT)(\d)\.?(\d?)", re.MULTILINE)
END_OF_HEADER = (b"% end\n", b"% end\r\n")
# Cameras whose files do not say the size, by the generation in the name of their plugin.
SENSORS = {"gen31": (640, 480), "gen3": (640, 480), "gen41": (1280, 720), "imx636": (1280, 720), "genx320": (320, 320)}
DAT_EVENTS = (0x00, 0x0C)  # types of an event: of the first cameras, and since
U4, U8, U2 = np.dtype("<u4"), np.dtype("<u8"), np.dtype("<u2")
KINDS = (0x0, 0x1, 0x8, 0xA, 0xE, 0xF)  # of words in EVT 2: darker, brighter, time, trigger, and what is skipped
Words = npt.NDArray[Any]


def read_dat(content: bytes, where: str) -> Decoded:
    """Return DAT of version 2: a text, a byte for the type and one for the size of an event, and events of 8 bytes.

    Raises:
        DataError: cut short, or of another kind of event.
    """
    header, start = text_header(content, HEADER_LINE, END_OF_HEADER)
    kind = tuple(content[start : start + 2])
    if len(kind) < 2 or kind[0] not in DAT_EVENTS or kind[1] != 8:
        raise DataError(
            f"{where}: the header ends at byte {start:,} in {kind}, and events of a camera are (12, 8) or (0, 8)"
        )
    start += 2
    words = _words(content, start, U8, where).view("<u4").reshape(-1, 2)
    time, place = words[:, 0], words[:, 1]
    return Decoded(
        t=unwrapped(time, 32),
        x=place & 0x3FFF,
        y=place >> 14 & 0x3FFF,
        p=place >> 28,
        sensor=_sensor(header, where),
        offset=lambda event: start + 8 * event,
    )


def looks_like_raw(content: bytes) -> bool:
    """Return whether the header names an encoding."""
    return ENCODING.search(text_header(content, HEADER_LINE, END_OF_HEADER)[0]) is not None


def read_raw(content: bytes, where: str) -> Decoded:
    """Read RAW in the encoding that its header names; what stands in front of the first time is left out.

    Raises:
        DataError: cut short, of an encoding that is not known, or a word that has no meaning in it.
    """
    header, start = text_header(content, HEADER_LINE, END_OF_HEADER)
    named = ENCODING.search(header)
    version = b".".join(part or b"0" for part in named.groups()).decode() if named else ""
    if version not in ENCODINGS:
        found = f"the encoding EVT {version}" if version else "no encoding in its header"
        raise DataError(f"{where} has {found}; known are EVT {', '.join(ENCODINGS)}")
    return ENCODINGS[version](content, start, header, where)


def _evt2(content: bytes, start: int, header: bytes, where: str) -> Decoded:
    """Return words of 32 bits: the upper 28 bits of the time, or an event with the lower 6."""
    words = _words(content, start, U4, where)
    kind = words >> 28
    _check_kinds(kind, KINDS, start, words, where)
    high, since_time = _last(words & 0xFFFFFFF, kind == 0x8)
    events = np.flatnonzero(kind <= 1)
    known = events >= since_time
    _check_some(events, known, "time", where)
    events = events[known]
    word = words[events]
    return Decoded(
        t=unwrapped(high[events].astype(np.int64) << 6 | (word >> 22 & 0x3F), 34),
        x=word >> 11 & 0x7FF,
        y=word & 0x7FF,
        p=kind[events],
        sensor=_sensor(header, where),
        offset=lambda event: start + U4.itemsize * int(events[event]),
    )


def _evt21(content: bytes, start: int, header: bytes, where: str) -> Decoded:
    """Return words of 64 bits, each with up to 32 events in a row."""
    words = _words(content, start, U8, where)
    if re.search(rb"^% endianness legacy", header, re.MULTILINE):
        words = words >> np.uint64(32) | words << np.uint64(32)  # the upper half comes first
    kind = (words >> np.uint64(60)).astype(np.uint8)
    _check_kinds(kind, KINDS, start, words, where)
    upper = (words >> np.uint64(32)).astype(np.int64)
    high, since_time = _last(upper & 0xFFFFFFF, kind == 0x8)
    place, column = _set_bits(np.where(kind <= 1, words & np.uint64(0xFFFFFFFF), 0), U8)
    known = place >= since_time
    _check_some(place, known, "time", where)
    place, column = place[known], column[known]
    word = upper[place]
    return Decoded(
        t=unwrapped(high[place] << 6 | (word >> 22 & 0x3F), 34),
        x=(word >> 11 & 0x7FF) + column,
        y=word & 0x7FF,
        p=kind[place],
        sensor=_sensor(header, where),
        offset=lambda event: start + U8.itemsize * int(place[event]),
    )


def _evt3(content: bytes, start: int, header: bytes, where: str) -> Decoded:
    """Read words of 16 bits that change row, column or half of the time, and events that take what stands."""
    words = _words(content, start, U2, where).astype(np.int64)
    kind = words >> 12
    _check_kinds(kind, (0x0, *range(0x2, 0x9), 0xA, 0xE, 0xF), start, words, where)
    high, since_time = _last(words & 0xFFF, kind == 0x8)
    new_high = (kind == 0x8) & (np.diff(high, prepend=-1) != 0)
    low, _ = _last(np.where(new_high, 0, words & 0xFFF), new_high | (kind == 0x6))
    y, since_row = _last(words & 0x7FF, kind == 0x0)
    single, width = kind == 0x2, np.where(kind == 0x4, 12, np.where(kind == 0x5, 8, 0))
    passed = np.cumsum(width) - width  # columns of the vectors so far, each of which begins where the last one ended
    origin, since_base = _last((words & 0x7FF) - passed, kind == 0x3)
    polarity, _ = _last(words >> 11 & 1, kind == 0x3)
    place, column = _set_bits(np.where(single, 1, words & (1 << width) - 1), U2)
    known = (place >= max(since_time, since_row)) & (single[place] | (place >= since_base))
    _check_some(place, known, "time, row and column", where)
    place, column = place[known], column[known]
    alone = single[place]
    return Decoded(
        t=unwrapped(high[place] << 12 | low[place], 24),
        x=np.where(alone, words[place] & 0x7FF, origin[place] + passed[place] + column),
        y=y[place],
        p=np.where(alone, words[place] >> 11 & 1, polarity[place]),
        sensor=_sensor(header, where),
        offset=lambda event: start + U2.itemsize * int(place[event]),
    )


ENCODINGS: dict[str, Callable[[bytes, int, bytes, str], Decoded]] = {"2.0": _evt2, "2.1": _evt21, "3.0": _evt3}


def _sensor(header: bytes, where: str) -> tuple[int, int] | None:
    """Return width and height by whichever line says them, or by the camera's generation."""
    for pattern in (
        rb"% geometry (\d{1,6})x(\d{1,6})",
        rb"width=(\d{1,6});height=(\d{1,6})",
        rb"% Width (\d{1,6})\r?\n% Height (\d{1,6})",
    ):
        if found := re.search(pattern, header):
            return int(found.group(1)), int(found.group(2))
    if found := re.search(rb"height=(\d{1,6});width=(\d{1,6})", header):
        return int(found.group(2)), int(found.group(1))
    plugin = re.search(rb"% plugin_name (\S+)", header)
    parts = plugin.group(1).decode("latin1").split("_") if plugin else []
    return next((SENSORS[part] for part in parts if part in SENSORS), None)


def _words(content: bytes, start: int, dtype: np.dtype[Any], where: str) -> Words:
    check_whole(content, start, dtype.itemsize, "word", where)
    return np.frombuffer(content, dtype, offset=start)


def _check_kinds(kind: Words, known: Iterable[int], start: int, words: Words, where: str) -> None:
    strange = ~np.isin(kind, list(known))
    if strange.any():
        at = int(strange.argmax())
        raise DataError(
            f"{where}: the word at byte {start + words.itemsize * at:,} is of the unknown kind {int(kind[at]):#x}"
        )


def _check_some(events: Words, known: Words, what: str, where: str) -> None:
    if len(events) and not known.any():
        raise DataError(f"{where} holds events, but never the {what} of one")


def _last(values: Words, given: Words) -> tuple[Words, int]:
    """Return at every word the last value given up to it, and the first word that gave one."""
    places = np.where(given, np.arange(len(values)), -1)
    np.maximum.accumulate(places, out=places)
    return values[places] if len(values) else values, int(given.argmax()) if given.any() else len(values)


def _set_bits(words: Words, dtype: np.dtype[Any]) -> tuple[Words, Words]:
    """Return of every set bit the number of its word and its place in it, from the lowest on."""
    octets = words.astype(dtype).view(np.uint8).reshape(len(words), dtype.itemsize)
    word, bit = np.unpackbits(octets, axis=1, bitorder="little").nonzero()
    return word, bit

"""Prophesee's files: DAT, and RAW in the encodings EVT 2.0, 2.1 and 3.0.

Source: Prophesee's "Data encoding formats". Read by code of our own: of the kept libraries, faery 0.7.1 moves times of
EVT 3.0 by up to 11 us, knows no EVT 2.1, and refuses DAT files of the N-Cars data set.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from isospike.errors import DataError
from isospike.events.recording import (
    WHOLE,
    Decoded,
    HeaderGoesOn,
    Piece,
    last_time,
    text_header,
    unwrapped,
    whole_units,
)

HEADER_LINE = re.compile(rb"%[ ][\t\x20-\x7e]*\r?\n")
ENCODING = re.compile(rb"^% (?:evt |format EVT)(\d)\.?(\d?)", re.MULTILINE)
END_OF_HEADER = (b"% end\n", b"% end\r\n")
# Cameras whose files do not say the size, by the generation in the name of their plugin.
SENSORS = {"gen31": (640, 480), "gen3": (640, 480), "gen41": (1280, 720), "imx636": (1280, 720), "genx320": (320, 320)}
DAT_EVENTS = (0x00, 0x0C)  # types of an event: of the first cameras, and since
U4, U8, U2 = np.dtype("<u4"), np.dtype("<u8"), np.dtype("<u2")
KINDS = (0x0, 0x1, 0x8, 0xA, 0xE, 0xF)  # of words in EVT 2: darker, brighter, time, trigger, and what is skipped
Words = npt.NDArray[Any]


def read_dat(content: bytes, where: str, piece: Piece = WHOLE) -> Decoded:
    """Read DAT of version 2: a text, a byte for the type and one for the size of an event, and events of 8 bytes.

    Raises:
        DataError: cut short, or of another kind of event.
    """
    header, start = text_header(content, HEADER_LINE, END_OF_HEADER, piece)
    if piece.header is None:
        start = _after_kind(content, start, where, piece)
    number = whole_units(content, start, 8, "word", where, piece)
    words = np.frombuffer(content, U4, 2 * number, start).reshape(-1, 2)
    t, place = unwrapped(words[:, 0], 32, piece.state), words[:, 1]
    return Decoded(
        t=t,
        x=place & 0x3FFF,
        y=place >> 14 & 0x3FFF,
        p=place >> 28,
        sensor=_sensor(header, where),
        offset=lambda event: piece.shift + start + 8 * event,
        header=start,
        taken=start + 8 * number,
        state=last_time(t, piece.state),
    )


def _after_kind(content: bytes, start: int, where: str, piece: Piece) -> int:
    """Return where events begin behind the two bytes that say what they are."""
    kind = tuple(content[start : start + 2])
    if len(kind) < 2 and not piece.last:
        raise HeaderGoesOn
    if len(kind) < 2 or kind[0] not in DAT_EVENTS or kind[1] != 8:
        raise DataError(
            f"{where}: the header ends at byte {start:,} in {kind}, and events of a camera are (12, 8) or (0, 8)"
        )
    return start + 2


def looks_like_raw(content: bytes) -> bool:
    """Return whether the header names an encoding."""
    return ENCODING.search(text_header(content, HEADER_LINE, END_OF_HEADER)[0]) is not None


def read_raw(content: bytes, where: str, piece: Piece = WHOLE) -> Decoded:
    """Read RAW in the encoding that its header names; what stands in front of the first time is left out.

    Raises:
        DataError: cut short, of an encoding that is not known, or a word that has no meaning in it.
    """
    header, start = text_header(content, HEADER_LINE, END_OF_HEADER, piece)
    named = ENCODING.search(header)
    version = b".".join(part or b"0" for part in named.groups()).decode() if named else ""
    if version not in ENCODINGS:
        found = f"the encoding EVT {version}" if version else "no encoding in its header"
        raise DataError(f"{where} has {found}; known are EVT {', '.join(ENCODINGS)}")
    decode, dtype = ENCODINGS[version]
    return decode(_Words(content, header, start, dtype, where, piece))


@dataclass(frozen=True)
class State:
    """What is in force at the end of a part of a RAW file.

    Args:
        t: Time of the last event; None: no event had one.
        words: Words that put it in force again, and give no event.
        passed: Columns of the vectors since the last of these words, of EVT 3.
        without: Whether there were events without a time, row or column.
    """

    t: int | None = None
    words: Words = field(default_factory=lambda: np.zeros(0, np.int64))
    passed: int = 0
    without: bool = False


class _Words:
    """The words of a file or of a part of it, behind those that the part before left in force."""

    def __init__(
        self, content: bytes, header: bytes, start: int, dtype: np.dtype[Any], where: str, piece: Piece
    ) -> None:
        self.header, self.where, self.piece = header, where, piece
        self.before: State = piece.state or State()
        self.size, self.start = dtype.itemsize, start
        number = whole_units(content, start, self.size, "word", where, piece)
        self.taken = start + self.size * number
        words = np.frombuffer(content, dtype, number, start)
        if dtype == U8 and re.search(rb"^% endianness legacy", header, re.MULTILINE):
            words = words >> np.uint64(32) | words << np.uint64(32)  # the upper half comes first
        self.all = np.concatenate([self.before.words.astype(dtype), words])

    def place(self, word: int) -> int:
        """Return the place of a word in the file, in bytes."""
        return self.piece.shift + self.start + self.size * (word - len(self.before.words))

    def check_kinds(self, kind: Words, known: Iterable[int]) -> None:
        """Refuse words of another kind."""
        strange = ~np.isin(kind, list(known))
        if strange.any():
            at = int(strange.argmax())
            place = f"the word at byte {self.place(at):,}"
            raise DataError(f"{self.where}: {place} is of the unknown kind {int(kind[at]):#x}")

    def decoded(
        self, t: Words, x: Words, y: Words, p: Words, place: Words, bits: int, *, known: Words, what: str, state: State
    ) -> Decoded:
        """Return events; ``t`` is not unwrapped yet, ``known`` says of all of them whether they have their ``what``."""
        t = unwrapped(t, bits, self.before.t)
        without = self.before.without or not known.all()
        if self.piece.last and without and self.before.t is None and not known.any():
            raise DataError(f"{self.where} holds events, but never the {what} of one")
        return Decoded(
            t, x, y, p, _sensor(self.header, self.where), lambda event: self.place(int(place[event])),
            header=self.start, taken=self.taken, state=replace(state, t=last_time(t, self.before.t), without=without),
        )  # fmt: skip


def _evt2(words: _Words) -> Decoded:
    """Read words of 32 bits: the upper 28 bits of the time, or an event with the lower 6."""
    kind = words.all >> 28
    words.check_kinds(kind, KINDS)
    high, since_time = _last(words.all & 0xFFFFFFF, kind == 0x8)
    events = np.flatnonzero(kind <= 1)
    known = events >= since_time
    events = events[known]
    word = words.all[events]
    return words.decoded(
        t=high[events].astype(np.int64) << 6 | (word >> 22 & 0x3F),
        x=word >> 11 & 0x7FF,
        y=word & 0x7FF,
        p=kind[events],
        place=events,
        bits=34,
        known=known,
        what="time",
        state=State(words=words.all[kind == 0x8][-1:]),
    )


def _evt21(words: _Words) -> Decoded:
    """Read words of 64 bits, each with up to 32 events in a row."""
    kind = (words.all >> np.uint64(60)).astype(np.uint8)
    words.check_kinds(kind, KINDS)
    upper = (words.all >> np.uint64(32)).astype(np.int64)
    high, since_time = _last(upper & 0xFFFFFFF, kind == 0x8)
    place, column = _set_bits(np.where(kind <= 1, words.all & np.uint64(0xFFFFFFFF), 0), U8)
    known = place >= since_time
    place, column = place[known], column[known]
    word = upper[place]
    return words.decoded(
        t=high[place] << 6 | (word >> 22 & 0x3F),
        x=(word >> 11 & 0x7FF) + column,
        y=word & 0x7FF,
        p=kind[place],
        place=place,
        bits=34,
        known=known,
        what="time",
        state=State(words=words.all[kind == 0x8][-1:]),
    )


def _evt3(words: _Words) -> Decoded:
    """Read words of 16 bits that change row, column or half of the time, and events that take what stands."""
    word = words.all.astype(np.int64)
    kind = word >> 12
    words.check_kinds(kind, (0x0, *range(0x2, 0x9), 0xA, 0xE, 0xF))
    high, since_time = _last(word & 0xFFF, kind == 0x8)
    new_high = (kind == 0x8) & (np.diff(high, prepend=-1) != 0)
    low, _ = _last(np.where(new_high, 0, word & 0xFFF), new_high | (kind == 0x6))
    y, since_row = _last(word & 0x7FF, kind == 0x0)
    single, width = kind == 0x2, np.where(kind == 0x4, 12, np.where(kind == 0x5, 8, 0))
    if words.before.passed:
        width[len(words.before.words) - 1] = words.before.passed
    passed = np.cumsum(width) - width  # columns of the vectors so far, each of which begins where the last one ended
    origin, since_base = _last((word & 0x7FF) - passed, kind == 0x3)
    polarity, _ = _last(word >> 11 & 1, kind == 0x3)
    place, column = _set_bits(np.where(single, 1, word & np.where(kind >> 1 == 0x2, (1 << width) - 1, 0)), U2)
    known = (place >= max(since_time, since_row)) & (single[place] | (place >= since_base))
    place, column = place[known], column[known]
    alone = single[place]
    return words.decoded(
        t=high[place] << 12 | low[place],
        x=np.where(alone, word[place] & 0x7FF, origin[place] + passed[place] + column),
        y=y[place],
        p=np.where(alone, word[place] >> 11 & 1, polarity[place]),
        place=place,
        bits=24,
        known=known,
        what="time, row and column",
        state=_evt3_state(word, kind, low, width),
    )


def _evt3_state(word: Words, kind: Words, low: Words, width: Words) -> State:
    """Return the last time, row and column, with the columns of the vectors behind that."""
    time, row, base = (np.flatnonzero(kind == k)[-1:] for k in (0x8, 0x0, 0x3))
    halves = [word[time], 0x6 << 12 | low[-1:]] if len(time) else []
    passed = int(width[base[0] :].sum()) if len(base) else 0
    return State(words=np.concatenate([*halves, word[row], word[base]]), passed=passed)


ENCODINGS: dict[str, tuple[Callable[[_Words], Decoded], np.dtype[Any]]] = {
    "2.0": (_evt2, U4),
    "2.1": (_evt21, U8),
    "3.0": (_evt3, U2),
}


def _sensor(header: bytes, where: str) -> tuple[int, int] | None:
    """Return the width and the height by whichever line says them, or by the camera's generation."""
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

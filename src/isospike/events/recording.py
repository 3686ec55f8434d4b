"""A recording of an event camera: when, where, and whether it became brighter."""

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from isospike.errors import ConfigError, DataError
from isospike.text import brief

DTYPES: dict[str, type[np.integer[Any]]] = {"t": np.int64, "x": np.uint16, "y": np.uint16, "p": np.uint8}
LARGEST_SIDE = 2**16  # pixels; coordinates are of 16 bits in every format


@dataclass(frozen=True, eq=False)
class Events:
    """Events in the order of their time.

    Args:
        t: Microseconds, int64 ``[N]``, never decreasing.
        x: Column of the pixel, uint16 ``[N]``.
        y: Row of the pixel, uint16 ``[N]``, counted as the file counts it.
        p: 1 where the pixel became brighter and 0 where it became darker, uint8 ``[N]``.
        sensor: Width and height in pixels; None where the file does not say.
        from_below: Whether row 0 is the lowest of the picture, as in jAER's files; elsewhere it is on top.

    Arrays of other integers are converted.

    Raises:
        DataError: arrays of unequal length or of another kind, time that goes back, a pixel outside of the sensor, or a
            polarity other than 0 and 1.
    """

    t: npt.NDArray[np.int64]
    x: npt.NDArray[np.uint16]
    y: npt.NDArray[np.uint16]
    p: npt.NDArray[np.uint8]
    sensor: tuple[int, int] | None = None
    from_below: bool = False

    def __post_init__(self) -> None:
        for name, dtype in DTYPES.items():
            object.__setattr__(self, name, _converted(name, getattr(self, name), dtype))
        lengths = {name: len(getattr(self, name)) for name in "txyp"}
        if len(set(lengths.values())) > 1:
            raise DataError(f"t, x, y and p are as many as there are events, got {lengths}")
        if self.sensor is not None:
            object.__setattr__(self, "sensor", checked_sensor(self.sensor))
        found = first_fault(self.t, self.x, self.y, self.p, self.sensor)
        if found is not None:
            raise DataError(f"event {found[0]} {found[1]}")

    def __len__(self) -> int:
        return len(self.t)

    def __getitem__(self, kept: slice | npt.NDArray[Any]) -> "Events":
        """Return the events of a slice, a mask, or indices that go up."""
        return Events(self.t[kept], self.x[kept], self.y[kept], self.p[kept], self.sensor, self.from_below)

    @property
    def duration(self) -> int:
        """Microseconds from the first event to the last; 0 where there are none."""
        return int(self.t[-1] - self.t[0]) if len(self) else 0

    def on(self, sensor: tuple[int, int]) -> "Events":
        """Return the same events on a sensor of this width and height.

        Raises:
            DataError: one of them is outside of it.
        """
        return Events(self.t, self.x, self.y, self.p, sensor, self.from_below)


def read_sensor(text: str, option: str) -> tuple[int, int]:
    """Read a width and a height, as WIDTHxHEIGHT.

    Raises:
        ConfigError: ``text`` is none; names ``option``.
    """
    sides = re.fullmatch(r"(\d{1,5})x(\d{1,5})", text)
    if sides is None:
        raise ConfigError(f"{option} is WIDTHxHEIGHT in pixels, such as 34x34, got '{brief(text)}'")
    return int(sides[1]), int(sides[2])


def checked_sensor(sensor: tuple[int, int]) -> tuple[int, int]:
    """Return the width and the height, once they are checked.

    Raises:
        DataError: they are no two numbers of pixels.
    """
    sides = tuple(sensor) if isinstance(sensor, tuple | list) else ()
    whole = len(sides) == 2 and all(isinstance(side, int | np.integer) for side in sides)
    if not whole or not all(1 <= side <= LARGEST_SIDE for side in sides):
        raise DataError(
            f"the size of a sensor is (width, height) in pixels, from 1 to {LARGEST_SIDE:,}, got {sensor!r}"
        )
    return int(sides[0]), int(sides[1])


def _converted(name: str, values: Any, dtype: type[np.integer[Any]]) -> npt.NDArray[Any]:
    array = np.asarray(values, dtype if len(values) == 0 else None)
    if array.ndim != 1 or array.dtype.kind not in "iub":
        raise DataError(f"{name} is a row of integers, got {array.dtype} of shape {list(array.shape)}")
    if array.dtype == dtype:
        return array
    limits = np.iinfo(dtype)
    # Compared as Python's numbers: no type of numpy holds both int64 and uint64.
    if array.size and not limits.min <= int(array.min()) <= int(array.max()) <= limits.max:
        raise DataError(f"{name} is from {limits.min} to {limits.max}, got {array.min()} to {array.max()}")
    return array.astype(dtype)


def first_fault(
    t: npt.NDArray[Any], x: npt.NDArray[Any], y: npt.NDArray[Any], p: npt.NDArray[Any], sensor: tuple[int, int] | None
) -> tuple[int, str] | None:
    """Return the first event that cannot be one, and what is wrong with it; None where all are sound."""
    back = t[1:] < t[:-1]
    if back.any():
        event = int(back.argmax()) + 1
        return event, f"is {int(t[event - 1]) - int(t[event])} us before the one in front of it"
    if len(p) and p.max() > 1:
        event = int((p > 1).argmax())
        return event, f"has the polarity {p[event]}, which is 0 or 1"
    for name, values, side, what in (("x", x, 0, "wide"), ("y", y, 1, "high")):
        limit = LARGEST_SIDE if sensor is None else sensor[side]
        if len(values) and (values.max() >= limit or values.dtype.kind == "i" and values.min() < 0):
            event = int(((values < 0) | (values >= limit)).argmax())
            size = f"the largest is {limit - 1:,}" if sensor is None else f"the sensor is {limit} {what}"
            return event, f"has {name} = {values[event]}, and {size}"
    return None


@dataclass(frozen=True)
class Piece:
    """What a decoder must know of a part of a file; the whole file is the first part and the last.

    Every part is given with the header in front of it.

    Args:
        header: Length of the header; None: this is the first part, and nobody knows it.
        shift: How many bytes further back in the file lies what stands behind the header.
        state: What the decoder left of the part before.
        last: Whether the file ends with it. Otherwise what is no whole event is left for the next part.
    """

    header: int | None = None
    shift: int = 0
    state: Any = None
    last: bool = True


WHOLE = Piece()


class HeaderGoesOn(Exception):
    """The first part of a file holds less than its header."""


@dataclass(frozen=True)
class Decoded:
    """What a file or a part of it holds, before anything is checked that all formats have in common.

    Args:
        t: Microseconds, whole numbers ``[N]``.
        x: Column, ``[N]``.
        y: Row, ``[N]``.
        p: Polarity, ``[N]``.
        sensor: Width and height, where the file says them.
        offset: The place in the file of an event, in bytes, by its number; None where the format has no such place.
        header: Length of the header.
        from_below: As of ``Events``.
        taken: Bytes up to which the content was read, header and all; None: to its end.
        state: What the decoder must know of this part to read the next one.
    """

    t: npt.NDArray[Any]
    x: npt.NDArray[Any]
    y: npt.NDArray[Any]
    p: npt.NDArray[Any]
    sensor: tuple[int, int] | None = None
    offset: Callable[[int], int] | None = None
    header: int = 0
    from_below: bool = False
    taken: int | None = None
    state: Any = None

    def sorted(self) -> "Decoded":
        """Sort events by time; events of one time keep their order."""
        order = np.argsort(self.t, kind="stable")
        offset = self.offset
        return Decoded(
            self.t[order], self.x[order], self.y[order], self.p[order], self.sensor,
            None if offset is None else lambda event: offset(int(order[event])), from_below=self.from_below,
        )  # fmt: skip

    def named(self, event: int, before: int = 0) -> str:
        """Name an event, by its number in a recording of which so many came ``before``, and by its place."""
        place = "" if self.offset is None else f" (at byte {self.offset(event):,})"
        return f"event {before + event:,}{place}"

    def checked(self, where: str, sensor: tuple[int, int] | None, before: int = 0) -> Events:
        """Return the events, on the sensor that is given or that the file says; ``before`` is for ``named``.

        Raises:
            DataError: an event cannot be one; names file, event and offset.
        """
        if sensor is not None and self.sensor not in (None, sensor):
            raise DataError(f"{where} is of a sensor of {self.sensor}, not of {sensor} (width, height)")
        sensor = self.sensor if sensor is None else sensor
        fault = first_fault(self.t, self.x, self.y, self.p, sensor)
        if fault is not None:
            event, text = fault
            advice = "; sort=True brings events into order" if "before the one" in text else ""
            raise DataError(f"{where}: {self.named(event, before)} {text}{advice}")
        try:
            return Events(self.t, self.x, self.y, self.p, sensor, self.from_below)
        except DataError as error:
            raise DataError(f"{where}: {error}") from error


def whole_units(content: bytes, start: int, size: int, what: str, where: str, piece: Piece) -> int:
    """Return how many of what has so many bytes follow from ``start`` on.

    Raises:
        DataError: the file ends within one; with the place.
    """
    number, rest = divmod(len(content) - start, size)
    if rest and piece.last:
        place = f"{rest} bytes after byte {piece.shift + len(content) - rest:,}"
        raise DataError(f"{where} ends within its last {what}, {place}: is it whole?")
    return number


def unwrapped(t: npt.NDArray[Any], bits: int, before: int | None = None) -> npt.NDArray[np.int64]:
    """Return the times of a counter of so many bits, which starts again from 0 whenever it is full.

    A step back by more than half of its range is such a start; a smaller one is time that goes back. ``before`` is the
    time in front of the first, likewise unwrapped; None: there is none.
    """
    t = t.astype(np.int64)
    if before is not None:
        t = np.concatenate([[before % (1 << bits)], t])
    starts = np.diff(t) < -(1 << (bits - 1))
    if starts.any():
        t[1:] += np.cumsum(starts) << bits
    return t if before is None else t[1:] + (before >> bits << bits)


def last_time(t: npt.NDArray[Any], before: int | None) -> int | None:
    """Return the time of the last event, or of the one before, where there is none."""
    return int(t[-1]) if len(t) else before


LONGEST_LINE = 1000  # bytes; a longer one in front of data is data itself


def text_header(
    content: bytes, line: re.Pattern[bytes], last: Collection[bytes], piece: Piece = WHOLE
) -> tuple[bytes, int]:
    """Split off the lines of text before the data.

    Args:
        content: The file, or a part of it.
        line: Matches a line of the header.
        last: Lines that end it; old cameras write none.
        piece: Which part.

    Returns:
        The header, and where the data begin.

    Raises:
        HeaderGoesOn: it may go on in the next part.
    """
    if piece.header is not None:
        return content[: piece.header], piece.header
    start = 0
    while found := line.match(content, start):
        start = found.end()
        if found.group() in last:
            return content[:start], start
    if not piece.last and len(content) - start < LONGEST_LINE:
        raise HeaderGoesOn
    return content[:start], start

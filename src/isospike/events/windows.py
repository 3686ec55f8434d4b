"""Frames of events as they arrive: a window is given out as soon as it is over, and one frame is all that is kept."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from isospike.errors import DataError
from isospike.events.frames import Frames, checked_number, integrate
from isospike.events.recording import Events

MOST_EMPTY = 100_000  # windows of time in a row without an event


@dataclass(frozen=True)
class Window:
    """A stretch of a recording.

    Args:
        frame: Counts, int32 ``[2, height, width]``.
        events: How many there are.
        start: Its first microsecond; None where nobody knows it.
        end: The one behind its last; of windows by count, behind their last event.
    """

    frame: Frames
    events: int
    start: int | None = None
    end: int | None = None


class Windows(ABC):
    """Cuts events, part by part and in order of time, into windows; the parts make no difference."""

    def __init__(self) -> None:
        self.events = 0  # in the window that is not over
        self._frame: Frames | None = None

    @abstractmethod
    def add(self, events: Events) -> Iterator[Window]:
        """Take the next events, of one sensor in all parts, and give out the windows that are over."""

    @abstractmethod
    def until(self, t: int) -> Iterator[Window]:
        """Give out the windows that are over because no event will come before the microsecond ``t``."""

    @abstractmethod
    def end(self) -> Iterator[Window]:
        """Give out the window that is over because no event will come, if it is full; then nothing is kept any more."""

    def _fill(self, events: Events) -> None:
        (counts,) = integrate(events, np.array([[0, len(events)]]))
        self._frame = counts if self._frame is None else self._frame + counts
        self.events += len(events)

    def _close(self, start: int, end: int) -> Window:
        assert self._frame is not None
        window = Window(self._frame, self.events, start, end)
        self._frame, self.events = np.zeros_like(self._frame), 0
        return window


class TimeWindows(Windows):
    """Windows of so many microseconds, from the first event on, as of ``windows_of_time``; they may be empty.

    Args:
        window: Microseconds.
    """

    def __init__(self, window: int) -> None:
        super().__init__()
        self.window = checked_number(window, "microseconds in a window")
        self._start: int | None = None
        self._last = 0  # microsecond of the last event

    def add(self, events: Events) -> Iterator[Window]:
        """See ``Windows``.

        Raises:
            DataError: in front of an event are more than ``MOST_EMPTY`` windows without one.
        """
        done = 0
        while done < len(events):
            yield from self.until(int(events.t[done]))
            if self._start is None:
                self._start = int(events.t[done])
            inside = int(np.searchsorted(events.t, self._start + self.window))
            self._fill(events[done:inside])
            done, self._last = inside, int(events.t[inside - 1])

    def until(self, t: int) -> Iterator[Window]:
        """See ``Windows``; raises as ``add``."""
        if self._start is None:
            return
        if t - self._start > self.window * (MOST_EMPTY + 1):
            raise DataError(
                f"between {self._last:,} us and {t:,} us lie more than {MOST_EMPTY:,} windows of {self.window:,} us "
                "without an event: is the time right? Where it is, end() lets a new recording begin"
            )
        while self._start + self.window <= t:
            self._start += self.window
            yield self._close(self._start - self.window, self._start)

    def end(self) -> Iterator[Window]:
        """See ``Windows``; it is full if its last microsecond has an event."""
        if self._start is not None:
            yield from self.until(self._last + 1)
        self._start, self._frame, self.events = None, None, 0


class CountWindows(Windows):
    """Windows of so many events, as of ``windows_of_count``.

    Args:
        count: Events.
    """

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = checked_number(count, "events in a window")
        self._start = 0

    def add(self, events: Events) -> Iterator[Window]:
        """See ``Windows``."""
        done = 0
        while done < len(events):
            part = events[done : done + self.count - self.events]
            self._start = self._start if self.events else int(part.t[0])
            self._fill(part)
            done += len(part)
            if self.events == self.count:
                yield self._close(self._start, int(part.t[-1]) + 1)

    def until(self, t: int) -> Iterator[Window]:
        """See ``Windows``: time alone ends none."""
        yield from ()

    def end(self) -> Iterator[Window]:
        """See ``Windows``: what is full has been given out."""
        self._frame, self.events = None, 0
        yield from ()

"""Events that arrive part by part, some of them late, in the order of their time."""

import numpy as np

from isospike.errors import DataError
from isospike.events.recording import Decoded, Events

TIMES = np.iinfo(np.int64)


class InOrder:
    """Holds events back until nothing may come in front of them any more.

    What it gives out does not depend on where the events are cut into parts, and is what a stable sort of all of them
    would give. It holds what came within the last ``late`` microseconds.

    Args:
        late: By how many microseconds an event may lie before the latest one that came earlier.
        where: What the events are called in errors.

    Raises:
        DataError: ``late`` is below 0.
    """

    def __init__(self, late: int = 0, where: str = "") -> None:
        if late < 0:
            raise DataError(f"the microseconds by which events may be late are from 0 on, got {late}")
        self.late, self.where = late, where
        self.taken = 0  # events so far
        self._latest: int | None = None
        self._passed: int | None = None  # nothing may come before it, whatever came so far
        self._held: Events | None = None

    def __len__(self) -> int:
        """Return how many events are held back."""
        return 0 if self._held is None else len(self._held)

    def add(self, decoded: Decoded, sensor: tuple[int, int] | None = None) -> Events:
        """Take the next part, and give out what is certain; where an error is raised, nothing of the part is taken.

        Raises:
            DataError: an event is later than it may be, or cannot be one; names it and its place.
        """
        back = len(decoded.t) > 1 and bool((decoded.t[1:] < decoded.t[:-1]).any())
        events = (decoded.sorted() if back else decoded).checked(self.where, sensor, self.taken)
        self._check_late(decoded)
        self.taken += len(events)
        if len(events):
            self._latest = max(int(events.t[-1]), events.t[0] if self._latest is None else self._latest)
        return self._given(events, None if self._latest is None else self._latest - self.late + 1)

    def until(self, t: int) -> Events:
        """Give out what lies before the microsecond ``t``: no event before it will come."""
        self._passed = t if self._passed is None else max(t, self._passed)
        return self._given(None, self._passed)

    def end(self) -> Events:
        """Give out all: no event will come."""
        return self._given(None, None if self._latest is None else self._latest + 1)

    def _check_late(self, decoded: Decoded) -> None:
        """Compare each with the latest event in front of it, so that parts make no difference."""
        if not len(decoded.t):
            return
        t = decoded.t.astype(np.int64)
        latest = np.maximum.accumulate(t)
        if self._latest is not None:
            latest = np.maximum(latest, self._latest)
        behind = latest.view(np.uint64) - t.view(np.uint64)  # which 64 bits with a sign may not hold
        faults = behind > self.late
        if self._passed is not None:
            faults |= t < self._passed
        if not faults.any():
            return
        event = int(faults.argmax())
        name, by = decoded.named(event, self.taken), int(behind[event])
        where = f"{self.where}: " if self.where else ""
        if self.late == 0 and by > 0:
            raise DataError(
                f"{where}{name} is {by:,} us before the one in front of it; late={by} waits for such events"
            )
        if by > self.late:
            raise DataError(f"{where}{name} comes {by:,} us late, and late={self.late}")
        raise DataError(f"{where}{name} is at {int(t[event]):,} us, and what lies before {self._passed:,} us was over")

    def _given(self, events: Events | None, before: int | None) -> Events:
        """Return what is certain of the events held and of new ones: those before a microsecond."""
        if self._held is None or not len(self._held):
            held = events
        else:
            held = self._held if events is None or not len(events) else _merged(self._held, events)
        if held is None:
            return Events([], [], [], [])  # type: ignore[arg-type]
        number = 0 if before is None else _number_before(held, before)
        self._held = held[number:]
        return held[:number]


def _number_before(events: Events, t: int) -> int:
    """Count the events before a microsecond, which need not be one that 64 bits can hold."""
    return len(events) if t > TIMES.max else int(np.searchsorted(events.t, max(t, TIMES.min)))


def _merged(first: Events, second: Events) -> Events:
    """Join events in the order of time; of one time, those of ``first`` come first."""
    t = np.concatenate([first.t, second.t])
    order = np.argsort(t, kind="stable")
    x, y, p = (np.concatenate([getattr(part, name) for part in (first, second)])[order] for name in "xyp")
    return Events(t[order], x, y, p, second.sensor, second.from_below)

"""What a recording is like, in a few numbers."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from isospike.errors import DataError
from isospike.events.recording import Events


@dataclass(frozen=True)
class RecordingSummary:
    """A recording in numbers.

    Args:
        events: How many there are.
        sensor: Width and height.
        sensor_said: Whether the file or its reader says them; otherwise they are those that the events reach.
        start_us: Microsecond of the first event.
        duration_us: Microseconds from the first event to the last.
        events_per_s: Over that time; 0 where there is none.
        brighter: Share of the events of polarity 1.
        events_per_pixel: Of the whole sensor.
        silent: Share of the pixels without an event.
        busiest: Column, row and number of events of the pixel that has most.
    """

    events: int
    sensor: tuple[int, int]
    sensor_said: bool
    start_us: int
    duration_us: int
    events_per_s: float
    brighter: float
    events_per_pixel: float
    silent: float
    busiest: tuple[int, int, int]

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return dict(vars(self))


def on_some_sensor(events: Events) -> Events:
    """Return the events on their sensor; where nobody says it, on the smallest that holds them.

    Raises:
        DataError: there are none.
    """
    if not len(events):
        raise DataError("a recording without events has nothing to look at")
    return events if events.sensor else events.on((int(events.x.max()) + 1, int(events.y.max()) + 1))


def from_above(events: Events) -> Events:
    """Return the events with row 0 on top, as pictures have it; they are on a sensor."""
    if not events.from_below or events.sensor is None:
        return events
    return Events(events.t, events.x, events.sensor[1] - 1 - events.y, events.p, events.sensor)


def summarise(events: Events) -> RecordingSummary:
    """Count what there is.

    Raises:
        DataError: there are no events.
    """
    placed = on_some_sensor(events)
    width, height = placed.sensor or (0, 0)
    # Not as a frame: a damaged file may name a pixel far away from all others.
    pixels, counts = np.unique(events.y.astype(np.int64) * width + events.x, return_counts=True)
    y, x = divmod(int(pixels[counts.argmax()]), width)
    seconds = events.duration / 1e6
    return RecordingSummary(
        events=len(events),
        sensor=(width, height),
        sensor_said=events.sensor is not None,
        start_us=int(events.t[0]),
        duration_us=events.duration,
        events_per_s=len(events) / seconds if seconds else 0.0,
        brighter=float(events.p.mean()),
        events_per_pixel=len(events) / (width * height),
        silent=1 - len(pixels) / (width * height),
        busiest=(x, y, int(counts.max())),
    )

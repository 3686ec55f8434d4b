"""Frames: how often each pixel became darker and brighter in stretches of a recording.

Events are in order of time, so a stretch is a slice of them, whatever decides where it begins and ends.
"""

import numpy as np
import numpy.typing as npt
import torch

from isospike.errors import DataError
from isospike.events.recording import Events
from isospike.ops.cpu.library import compiled, library

MOST_CELLS = 2**32 - 1  # of a frame that the library numbers
SMALL = 2**18  # fewer events than this are counted in a fraction of a millisecond, before a second thread has woken up
Frames = npt.NDArray[np.int32]
Bounds = npt.NDArray[np.int64]


def bins_of_count(events: Events, T: int) -> Bounds:
    """Cut a recording into T parts with as many events; the last has the rest too.

    Returns:
        First event of each part and the one behind its last, ``[T, 2]``.

    Raises:
        DataError: there are fewer events than parts.
    """
    checked_number(T, "bins")
    if len(events) < T:
        raise DataError(f"a recording of {len(events)} events is too short for {T} bins")
    edges = np.arange(T + 1) * (len(events) // T)
    edges[-1] = len(events)
    return np.stack([edges[:-1], edges[1:]], axis=1)


def bins_of_time(events: Events, T: int) -> Bounds:
    """Cut a recording into T parts of as many microseconds; the last has the rest too, and parts may be empty.

    Returns:
        As of ``bins_of_count``.

    Raises:
        DataError: it is shorter than T microseconds.
    """
    checked_number(T, "bins")
    if events.duration < T:
        raise DataError(f"a recording of {events.duration} us is too short for {T} bins of time")
    starts = events.t[0] + np.arange(1, T) * (events.duration // T)
    edges = np.concatenate([[0], np.searchsorted(events.t, starts), [len(events)]])
    return np.stack([edges[:-1], edges[1:]], axis=1)


def windows_of_count(events: Events, count: int, stride: int | None = None) -> Bounds:
    """Slide a window of ``count`` events along a recording, as far as it is full.

    Args:
        events: The recording.
        count: Events in a window.
        stride: Events from the start of one window to the start of the next; None: ``count``, so that none overlap.

    Returns:
        As of ``bins_of_count``.

    Raises:
        DataError: there are fewer events.
    """
    checked_number(count, "events in a window")
    stride = count if stride is None else checked_number(stride, "events between windows")
    if len(events) < count:
        raise DataError(f"a recording of {len(events)} events is shorter than a window of {count}")
    starts = np.arange(0, len(events) - count + 1, stride)
    return np.stack([starts, starts + count], axis=1)


def windows_of_time(events: Events, window: int, stride: int | None = None) -> Bounds:
    """Slide a window of ``window`` microseconds along a recording from its first event on, as far as it is full.

    Args:
        events: The recording.
        window: Microseconds; a window has the events from its start on, up to but without its end.
        stride: Microseconds from the start of one window to the start of the next; None: ``window``.

    Returns:
        As of ``bins_of_count``; a window may be empty.

    Raises:
        DataError: the recording is shorter.
    """
    stride = _check_window(events, window, stride)
    starts = events.t[0] + np.arange(0, events.duration + 1 - window + 1, stride)
    return np.stack([np.searchsorted(events.t, starts), np.searchsorted(events.t, starts + window)], axis=1)


def first_of_count(events: Events, T: int, count: int, stride: int | None = None) -> Bounds:
    """Take the first T windows of ``windows_of_count``.

    Raises:
        DataError: there are fewer events than these windows take.
    """
    checked_number(T, "windows")
    needed = count + (T - 1) * (count if stride is None else stride)
    bounds = windows_of_count(events, count, stride)[:T]
    if len(bounds) < T:
        raise DataError(f"a recording of {len(events):,} events is too short for {T} windows, which take {needed:,}")
    return bounds


def first_of_time(events: Events, T: int, window: int, stride: int | None = None) -> Bounds:
    """Lay T windows as ``windows_of_time`` does, of which those behind the end of the recording are empty.

    Raises:
        DataError: it is shorter than one window.
    """
    checked_number(T, "windows")
    starts = events.t[0] + np.arange(T) * _check_window(events, window, stride)
    return np.stack([np.searchsorted(events.t, starts), np.searchsorted(events.t, starts + window)], axis=1)


def integrate(events: Events, bounds: Bounds) -> Frames:
    """Count the events of every part of a recording, by polarity and pixel.

    Args:
        events: The recording, of a sensor whose size is known.
        bounds: First event of each part and the one behind its last, ``[T, 2]``, of one of the functions above.

    Returns:
        int32 ``[T, 2, height, width]``; channel 0 counts what became darker, channel 1 what became brighter.

    Raises:
        DataError: the size of the sensor is not known, or an event is outside of it: arrays were changed after the
            events were made of them.
    """
    if events.sensor is None:
        raise DataError(
            "the file of these events does not say the size of the sensor: name it with sensor=(width, height)"
        )
    if bounds.size and not 0 <= bounds.min() <= bounds.max() <= len(events):
        raise DataError(f"bounds are numbers of events, from 0 to {len(events)}, got {bounds.min()} to {bounds.max()}")
    width, height = events.sensor
    plain = library() is None or 2 * width * height > MOST_CELLS
    return _count(events, bounds) if plain else _count_compiled(events, bounds)


def _count(events: Events, bounds: Bounds) -> Frames:
    """Do what the library does, where there is none or a frame is too large for it."""
    assert events.sensor is not None
    width, height = events.sensor
    frames = np.zeros((len(bounds), 2 * height * width), np.int32)
    outside = (events.x >= width) | (events.y >= height) | (events.p > 1)
    cells = (events.p.astype(np.int64) * height + events.y) * width + events.x
    for frame, (start, end) in zip(frames, bounds.tolist(), strict=True):
        if outside[start:end].any():
            raise _outside(events, start + int(outside[start:end].argmax()))
        frame += np.bincount(cells[start:end], minlength=len(frame))
    return frames.reshape(len(bounds), 2, height, width)


def _count_compiled(events: Events, bounds: Bounds) -> Frames:
    """Count in ``csrc/events.c``, every frame in one thread."""
    assert events.sensor is not None
    width, height = events.sensor
    frames = np.empty((len(bounds), 2, height, width), np.int32)
    arrays = [np.ascontiguousarray(array) for array in (bounds, events.x, events.y, events.p)]
    threads = torch.get_num_threads() if len(events) > SMALL else 1
    sizes = (len(bounds), height, width)
    fault = compiled().isospike_count_events(*sizes, *(array.ctypes.data for array in (*arrays, frames)), threads)
    if fault:
        raise _outside(events, fault - 1)
    return frames


def _outside(events: Events, number: int) -> DataError:
    assert events.sensor is not None
    width, height = events.sensor
    return DataError(f"event {number} lies outside of the sensor of {width}x{height} pixels")


def _check_window(events: Events, window: int, stride: int | None) -> int:
    """Return the stride, in microseconds."""
    checked_number(window, "microseconds in a window")
    if not len(events) or events.duration + 1 < window:
        raise DataError(f"a recording of {events.duration} us is shorter than a window of {window} us")
    return window if stride is None else checked_number(stride, "microseconds between windows")


def checked_number(value: int, what: str) -> int:
    """Return a number from 1 on, which errors call ``what``."""
    if value < 1:
        raise DataError(f"the number of {what} is from 1 on, got {value}")
    return value

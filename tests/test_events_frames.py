"""Frames beside loops over single events."""

import numpy as np
import pytest

from event_files import some_events
from isospike.errors import DataError
from isospike.events import (
    Events,
    bins_of_count,
    bins_of_time,
    first_of_count,
    first_of_time,
    frames,
    integrate,
    windows_of_count,
    windows_of_time,
)

SENSOR = (130, 120)


@pytest.fixture(params=[150, 500])
def recording(request):
    return Events(*np.array(some_events(request.param)).T, SENSOR)


def naive(events, belongs):
    """Frames by one look at every event; ``belongs(number, time)`` lists the frames that it is in."""
    placed = [(frame, n) for n in range(len(events)) for frame in belongs(n, int(events.t[n]))]
    counts = np.zeros((max((frame for frame, _ in placed), default=-1) + 1, 2, SENSOR[1], SENSOR[0]), np.int64)
    for frame, n in placed:
        counts[frame, events.p[n], events.y[n], events.x[n]] += 1
    return counts


@pytest.mark.parametrize("T", [1, 3, 10])
def test_bins_of_count(recording, T):
    each = len(recording) // T
    expected = naive(recording, lambda n, t: [min(n // each, T - 1)])
    assert (integrate(recording, bins_of_count(recording, T)) == expected).all()


@pytest.mark.parametrize("T", [1, 3, 10])
def test_bins_of_time(recording, T):
    start, each = int(recording.t[0]), recording.duration // T
    expected = naive(recording, lambda n, t: [min((t - start) // each, T - 1)])
    assert (integrate(recording, bins_of_time(recording, T)) == expected).all()


@pytest.mark.parametrize(("count", "stride"), [(7, None), (7, 3), (10, 25), (61, 1)])
def test_windows_of_count(recording, count, stride):
    step = stride or count
    windows = (len(recording) - count) // step + 1
    expected = naive(recording, lambda n, t: [w for w in range(windows) if w * step <= n < w * step + count])
    assert (integrate(recording, windows_of_count(recording, count, stride)) == expected).all()


@pytest.mark.parametrize(("window", "stride"), [(9_000, None), (9_000, 4_000), (1_000, 20_000)])
def test_windows_of_time(recording, window, stride):
    start, step = int(recording.t[0]), stride or window
    windows = [n for n in range(1000) if start + n * step + window - 1 <= recording.t[-1]]
    expected = naive(recording, lambda n, t: [w for w in windows if w * step <= t - start < w * step + window])
    result = integrate(recording, windows_of_time(recording, window, stride))
    assert len(result) == len(windows)
    assert (result[: len(expected)] == expected).all()
    assert not result[len(expected) :].any()


@pytest.mark.parametrize(("window", "stride"), [(700, None), (900, 400), (20_000, None)])
def test_the_first_windows_of_time(recording, window, stride):
    start, step = int(recording.t[0]), stride or window
    expected = naive(recording, lambda n, t: [w for w in range(9) if w * step <= t - start < w * step + window])
    result = integrate(recording, first_of_time(recording, 9, window, stride))
    assert (result[: len(expected)] == expected).all()
    assert len(result) == 9
    assert not result[len(expected) :].any()


@pytest.mark.parametrize(("count", "stride"), [(7, None), (7, 3), (10, 25)])
def test_the_first_windows_of_count(recording, count, stride):
    found = integrate(recording, first_of_count(recording, 4, count, stride))
    assert (found == integrate(recording, windows_of_count(recording, count, stride))[:4]).all()
    assert len(found) == 4


@pytest.fixture(params=["compiled", "numpy"])
def counted(request, monkeypatch):
    """``integrate`` with the library and without."""
    if request.param == "numpy":
        monkeypatch.setattr(frames, "library", lambda: None)
    return integrate


@pytest.mark.parametrize("count", [0, 1, 5_000, frames.SMALL + 7])
def test_library_and_numpy_count_alike(counted, count):
    rng = np.random.default_rng(count)
    x, y, p = (rng.integers(0, side, count) for side in (5, 3, 2))
    events = Events(np.arange(count), x, y, p, (5, 3))
    bounds = np.array([[0, count], [0, 0], [count // 3, count // 2], [count // 2, count]])
    found = counted(events, bounds)
    assert found.dtype == np.int32
    for frame, (start, end) in zip(found, bounds.tolist(), strict=True):
        expected = np.zeros((2, 3, 5), int)
        np.add.at(expected, (p[start:end], y[start:end], x[start:end]), 1)
        assert (frame == expected).all()


def test_events_of_every_second_place_of_an_array(counted):
    whole = np.arange(20, dtype=np.uint16) % 4
    events = Events(np.arange(10), whole[::2], whole[1::2], np.ones(20, np.uint8)[::2], (4, 4))
    assert counted(events, np.array([[0, 10]]))[0, 1].nonzero() == (pytest.approx([1, 3]), pytest.approx([0, 2]))


@pytest.mark.parametrize("bounds", [[[-1, 2]], [[0, 4]]])
def test_bounds_outside_of_the_recording_are_refused(counted, bounds):
    events = Events([1, 2, 3], [0] * 3, [0] * 3, [0] * 3, (1, 1))
    with pytest.raises(DataError, match="bounds are numbers of events, from 0 to 3, got"):
        counted(events, np.array(bounds))


@pytest.mark.parametrize(("name", "value"), [("x", 60_000), ("x", 2), ("y", 2), ("p", 2)])
def test_an_array_that_was_changed_later_does_not_reach_other_memory(counted, name, value):
    events = Events([1, 2, 3], np.zeros(3, np.uint16), np.zeros(3, np.uint16), np.zeros(3, np.uint8), (2, 2))
    getattr(events, name)[1] = value
    with pytest.raises(DataError, match="event 1 lies outside of the sensor of 2x2 pixels"):
        counted(events, np.array([[0, 1], [1, 3]]))


def test_counts_are_wide():
    events = Events(np.arange(70_000), *[np.zeros(70_000, int)] * 3, (1, 1))
    assert integrate(events, bins_of_count(events, 1)).tolist() == [[[[70_000]], [[0]]]]


def test_bins_may_be_empty_and_windows_without_events_too():
    events = Events([0, 1, 99], [0, 0, 1], [0, 0, 0], [0, 1, 1], (2, 1))
    assert integrate(events, bins_of_time(events, 3)).sum(axis=(1, 2, 3)).tolist() == [2, 0, 1]
    assert integrate(events, windows_of_time(events, 25)).sum(axis=(1, 2, 3)).tolist() == [2, 0, 0, 1]


@pytest.mark.parametrize(
    ("cut", "message"),
    [
        (lambda events: bins_of_count(events, 4), "a recording of 3 events is too short for 4 bins"),
        (lambda events: bins_of_time(events, 100), "a recording of 99 us is too short for 100 bins of time"),
        (lambda events: windows_of_count(events, 4), "a recording of 3 events is shorter than a window of 4"),
        (lambda events: windows_of_time(events, 101), "a recording of 99 us is shorter than a window of 101 us"),
        (lambda events: windows_of_time(events[:0], 1), "a recording of 0 us is shorter than a window of 1 us"),
        (lambda events: first_of_time(events, 2, 101), "a recording of 99 us is shorter than a window of 101 us"),
        (lambda events: first_of_count(events, 3, 2, 1), "of 3 events is too short for 3 windows, which take 4"),
        (lambda events: first_of_time(events, 0, 5), "the number of windows is from 1 on, got 0"),
        (lambda events: bins_of_count(events, 0), "the number of bins is from 1 on, got 0"),
        (lambda events: windows_of_time(events, 10, -1), "the number of microseconds between windows is from 1 on"),
        (lambda events: integrate(events, bins_of_count(events, 2)), "does not say the size of the sensor: name it"),
    ],
)  # fmt: skip
def test_what_cannot_be_cut_is_refused(cut, message):
    with pytest.raises(DataError, match=message):
        cut(Events([0, 1, 99], [0, 0, 1], [0, 0, 0], [0, 1, 1]))

"""Events as they arrive give the decisions of the whole recording, however they are cut."""

import tracemalloc
from random import Random

import numpy as np
import pytest
import torch

import isospike as iso
from event_files import SENSOR, some_events
from isospike.data import Augment, AugmentSpec
from isospike.data.recordings import on_square
from isospike.errors import ConfigError, DataError
from isospike.events import Events, bins_of_time, integrate, windows, windows_of_count, windows_of_time
from isospike.inputs import Inputs

SIZE, WINDOW, COUNT = 16, 6_000, 25
INPUTS = Inputs(SIZE, (0.01, 0.02), (0.004, 0.005), ("hand", "arm", "other"), T=4)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = iso.create_model("ms_resnet8", width=4, in_channels=2, num_classes=3, T=4).eval()
    for module in model.modules():
        if hasattr(module, "weight") and module.weight is not None and module.weight.dim() == 1:
            module.weight.data.fill_(1.0)  # of the norms, so that units matter
    model.inputs = INPUTS
    return model


@pytest.fixture(scope="module")
def rows():
    """With times that are equal, and gaps of several windows."""
    rows = np.array(some_events(400))
    rows[150:, 0] += 4 * WINDOW
    return rows


@pytest.fixture(scope="module")
def events(rows):
    return Events(*rows.T, SENSOR)


def offline(net, events, bounds, steps=None):
    """Logits of every step, through frames of the whole recording."""
    frames = integrate(on_square(events, SIZE), bounds)
    augment = Augment(AugmentSpec(), INPUTS.mean, INPUTS.std, 3)
    x = augment.test(torch.from_numpy(frames)[:, None])
    with torch.no_grad():
        return torch.cat([net(part, per_step=True) for part in x.split(steps or len(x))])[:, 0]


def cut(rows, seed, most=60):
    rng, at, parts = Random(seed), 0, []
    while at < len(rows):
        size = rng.randint(0, most)
        parts.append(rows[at : at + size])
        at += size
    return parts


def said(decisions):
    return torch.stack([decision.step_logits for decision in decisions])


@pytest.mark.parametrize("way", [{"window": WINDOW}, {"count": COUNT}])
@pytest.mark.parametrize("late", [0, 3_000])
def test_a_stream_says_what_the_whole_recording_says_bit_for_bit(model, rows, way, late):
    """Events of one time are in the order of their arrival, as a stable sort leaves them."""
    arrival = np.argsort(rows[:, 0] + np.random.default_rng(0).integers(0, late + 1, len(rows)), kind="stable")
    rows = rows[arrival]
    in_order = rows[np.argsort(rows[:, 0], kind="stable")]
    assert late == 0 or (rows != in_order).any()
    events = Events(*in_order.T, SENSOR)
    bounds = windows_of_time(events, WINDOW) if "window" in way else windows_of_count(events, COUNT)
    expected = offline(model, events, bounds)
    mean = (expected.double().cumsum(0) / torch.arange(1, len(expected) + 1)[:, None]).float()
    assert len(expected) > 8
    for seed in range(3):
        stream = iso.Stream(model, sensor=SENSOR, late=late, **way)
        decisions = list(stream.run(tuple(part.T) for part in cut(rows, seed)))
        assert torch.equal(said(decisions), expected)
        assert torch.equal(torch.stack([decision.logits for decision in decisions]), mean)
        assert [decision.events for decision in decisions] == (bounds[:, 1] - bounds[:, 0]).tolist()
        assert [decision.number for decision in decisions] == list(range(len(expected)))
    assert not torch.equal(expected[0], expected[1])
    last = decisions[-1]
    assert torch.equal(last.probabilities, mean[-1].softmax(-1))
    assert last.label == INPUTS.classes[int(mean[-1].argmax())]


def test_windows_of_time_are_where_they_are_offline_and_may_be_empty(model, events):
    decisions = list(iso.Stream(model, window=WINDOW).run([events]))
    starts = events.t[0] + WINDOW * np.arange(len(decisions))
    assert [(d.start, d.end) for d in decisions] == [(start, start + WINDOW) for start in starts]
    assert 0 in [decision.events for decision in decisions]


def test_a_full_last_window_counts_and_a_window_that_is_not_full_does_not(model):
    exact = Events([0, 50, 99], [1] * 3, [1] * 3, [0, 1, 1], SENSOR)
    for last, expected in ((99, [3]), (98, [])):
        part = Events([0, 50, last], [1] * 3, [1] * 3, [0, 1, 1], SENSOR)
        stream = iso.Stream(model, window=100)
        assert [decision.events for decision in stream(part)] == []
        assert stream.pending == 3
        assert [decision.events for decision in stream.end()] == expected
        assert stream.pending == 0
    assert len(windows_of_time(exact, 100)) == 1


def test_the_next_recording_begins_from_rest(model, events):
    stream = iso.Stream(model, window=WINDOW)
    first, second = (list(stream.run([events])) for _ in range(2))
    assert torch.equal(said(first), said(second))
    assert [d.number for d in first] == [d.number for d in second]


def test_restart_is_the_network_on_so_many_steps_at_a_time(model, events):
    bounds = windows_of_time(events, WINDOW)
    decisions = list(iso.Stream(model, window=WINDOW, restart=4).run([events]))
    expected = offline(model, events, bounds, steps=4)
    assert torch.equal(said(decisions), expected)
    assert not torch.equal(expected, offline(model, events, bounds))
    assert [decision.steps for decision in decisions[:6]] == [1, 2, 3, 4, 1, 2]
    torch.testing.assert_close(decisions[3].logits, expected[:4].mean(0))
    torch.testing.assert_close(decisions[4].logits, expected[4])


def test_norms_that_know_the_step_need_a_restart(events):
    torch.manual_seed(0)
    model = iso.create_model("ms_resnet8", width=4, in_channels=2, num_classes=3, T=4, per_step_norm=True).eval()
    model.inputs = INPUTS
    for restart in (None, 5):
        with pytest.raises(ConfigError, match="know 4 time steps: begin anew .*, with restart=4"):
            iso.Stream(model, window=WINDOW, restart=restart)
    bounds = windows_of_time(events, WINDOW)[:8]
    decisions = list(iso.Stream(model, window=WINDOW, restart=4).run([events]))[:8]
    assert torch.equal(said(decisions), offline(model, events, bounds, steps=4))


def test_a_compiled_network_streams_what_it_says_of_the_whole_recording(model, rows, events):
    expected = offline(model.compile_for_inference(), events, windows_of_time(events, WINDOW))
    for seed in range(2):
        stream = iso.Stream(model, window=WINDOW, sensor=SENSOR, compiled=True)
        decisions = list(stream.run(tuple(part.T) for part in cut(rows, seed)))
        torch.testing.assert_close(said(decisions), expected)


def test_time_that_passes_without_events_ends_windows(model, events):
    stream = iso.Stream(model, window=WINDOW)
    assert list(stream.until(5)) == []
    decisions = list(stream(events[:1]))
    start = int(events.t[0])
    for t in range(start, start + 3 * WINDOW + 1, WINDOW // 4):
        decisions += stream.until(t)
    assert [(d.end - start, d.events) for d in decisions] == [(WINDOW, 1), (2 * WINDOW, 0), (3 * WINDOW, 0)]
    with pytest.raises(DataError, match=r"event 1 is at [\d,]+ us, and what lies before [\d,]+ us was over"):
        stream(events[1:2])
    whole = Events(*(np.append(getattr(events[:1], n), [v]) for n, v in zip("txyp", (t - 1, 0, 0, 0), strict=True)))
    assert torch.equal(said(decisions), offline(model, whole.on(SENSOR), windows_of_time(whole, WINDOW)))


def test_decisions_that_nobody_took_come_with_the_next(model, events):
    whole = list(iso.Stream(model, window=WINDOW).run([events]))
    stream = iso.Stream(model, window=WINDOW)
    stream(events[:200])
    first = next(stream(events[200:]))
    stream.end()
    rest = list(stream(events))
    assert torch.equal(said([first, *rest]), torch.cat([said(whole), said(whole)[: len(rest) + 1 - len(whole)]]))
    assert [d.number for d in rest[len(whole) - 1 :]] == list(range(len(rest) + 1 - len(whole)))
    assert len(rest) >= 2 * len(whole) - 2


def test_frames_of_ones_own_are_windows(model, events):
    square = on_square(events, SIZE)
    frames = integrate(square, windows_of_time(square, WINDOW))
    stream = iso.Stream(model, window=WINDOW)
    decisions = [*stream.frames(frames[:3]), *(d for frame in frames[3:] for d in stream.frames(torch.tensor(frame)))]
    assert torch.equal(said(decisions), said(list(iso.Stream(model, window=WINDOW).run([events]))))
    assert decisions[0].start is None
    for wrong in (frames[:, :1], frames.astype(np.float32), frames[..., :5], frames[0, 0]):
        with pytest.raises(
            DataError, match=r"frames are whole numbers of shape \[2, 16, 16\] or \[T, 2, 16, 16\], got"
        ):
            stream.frames(wrong)
    list(stream(events[:2]))
    with pytest.raises(DataError, match="2 events are in a window that is not over"):
        list(stream.frames(frames))


def test_a_long_recording_takes_no_more_memory_than_a_short_one(model):
    def endless(count):
        rng = np.random.default_rng(0)
        for part in range(count):
            t = part * 1000 + np.sort(rng.integers(0, 1000, 2000))
            yield t, rng.integers(0, 100, 2000), rng.integers(0, 100, 2000), rng.integers(0, 2, 2000)

    peaks = []
    for count in (5, 150):
        stream = iso.Stream(model, window=20_000, sensor=SENSOR, late=500)
        tracemalloc.start()
        decisions = sum(1 for _ in stream.run(endless(count)))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert decisions == count // 20
    assert peaks[1] < 1.2 * peaks[0] + 50_000


def test_time_that_leaps_is_named_and_no_endless_row_of_decisions(model, monkeypatch):
    monkeypatch.setattr(windows, "MOST_EMPTY", 5)
    stream = iso.Stream(model, window=100)
    leap = Events([0, 50, 10_000], [1] * 3, [1] * 3, [1] * 3, SENSOR)
    with pytest.raises(DataError, match=r"between 50 us and 10,000 us lie more than 5 windows of 100 us without an"):
        list(stream(leap))


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (([1, 2], [1, 2], [1, 2]), "events are the four arrays t, x, y and p, got 3"),
        (([1, 2], [1, 2], [1, 2], [1]), "t, x, y and p are rows of whole numbers of one length"),
        (([1.5], [1], [1], [1]), "t, x, y and p are rows of whole numbers of one length, got float64"),
        (([1, 2], [1, 128], [1, 2], [1, 1]), "the stream: event 3 has x = 128, and the sensor is 128 wide"),
        (([1, 2], [1, -1], [1, 2], [1, 1]), "the stream: event 3 has x = -1, and the sensor is 128 wide"),
        (([1, 2], [1, 2], [1, 2], [1, 2]), "the stream: event 3 has the polarity 2, which is 0 or 1"),
        (([2, 1], [1, 2], [1, 2], [1, 1]), "the stream: event 3 is 1 us before the one in front of it; late=1 waits"),
        (Events([1], [1], [1], [1], (64, 64)), r"these events are of a sensor of \(64, 64\), not of \(128, 120\)"),
    ],
)  # fmt: skip
def test_events_that_cannot_be_are_named_and_the_stream_goes_on_as_if_they_had_not_been(model, part, message):
    stream = iso.Stream(model, window=10, sensor=SENSOR)
    list(stream(([0, 1], [5, 5], [5, 5], [1, 1])))
    with pytest.raises(DataError, match=message):
        stream(part)
    assert stream.pending == 2
    (decision,) = stream(([2, 11], [5, 5], [5, 5], [1, 1]))
    assert decision.events == 3


def test_a_sensor_that_the_network_cannot_take_is_refused(model):
    with pytest.raises(DataError, match="a sensor of 15x9 pixels is smaller than the frames of this network, 16x16"):
        iso.Stream(model, window=10, sensor=(15, 9))
    with pytest.raises(DataError, match="a sensor of 8x8 pixels is smaller"):
        iso.Stream(model, window=10)(Events([1], [1], [1], [1], (8, 8)))
    with pytest.raises(DataError, match=r"do not say the size of the sensor: name it with sensor=\(width, height\)"):
        iso.Stream(model, window=10)(([1], [1], [1], [1]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "give one of window=microseconds and count=events"),
        ({"window": 3, "count": 4}, "give one of window=microseconds and count=events"),
        ({"window": 0}, "the number of microseconds in a window is from 1 on, got 0"),
        ({"count": 0}, "the number of events in a window is from 1 on, got 0"),
        ({"window": 3, "late": -1}, "the microseconds by which events may be late are from 0 on, got -1"),
        ({"window": 3, "restart": 0}, "restart is a number of windows from 1 on, got 0"),
        ({"window": 3, "inputs": Inputs(16, (0.0,) * 2, (1.0,) * 2)}, "was trained on images, and this reads events"),
        ({"window": 3, "inputs": Inputs(16, (0.0,), (1.0,), T=4)}, "inputs have 1 channels, and the model reads 2"),
        ({"window": 3, "inputs": Inputs(16, (0.0,) * 2, (1.0,) * 2, ("a",), T=4)}, "name 1 classes, and the model"),
    ],
)  # fmt: skip
def test_what_is_no_stream_is_refused(model, options, message):
    with pytest.raises((ConfigError, DataError), match=message):
        iso.Stream(model, **options)


def test_a_recording_of_as_many_windows_as_bins_has_the_frames_of_its_training(events):
    """Where the bins of the training were of time and the recording is a whole number of them."""
    last = int(events.t[0]) + 40_000
    whole = events[events.t < last]
    whole = Events(*(np.append(getattr(whole, n), [v]) for n, v in zip("txyp", (last, 0, 0, 0), strict=True)), SENSOR)
    frames, bins = (integrate(whole, cut) for cut in (windows_of_time(whole, 10_000), bins_of_time(whole, 4)))
    bins[3, 0, 0, 0] -= 1  # the event that ends the recording, and begins the next window
    assert (frames == bins).all()

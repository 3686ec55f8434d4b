"""The simulated camera: every event by hand from the light that made it."""

import numpy as np
import pytest

from isospike.errors import ConfigError
from isospike.events import Camera, moved, random_walk, saccades

QUIET = {"threshold": 0.2, "spread": 0.0, "dark": 0.1, "refractory": 0, "leak": 0.0, "noise": 0.0}


def camera(**options):
    return Camera(**{**QUIET, **options})


def rngs(count=1, seed=0):
    return [np.random.default_rng((seed, n)) for n in range(count)]


def record(camera, logs, t, seed=0):
    """Events of pixels whose logarithm, ``[samples, B, height, width]``, is ``logs`` above that of some light."""
    light = 0.3 * np.exp(np.asarray(logs, float)) - camera.dark
    thresholds = camera.thresholds(*light.shape[2:], seed)
    return camera.record(light, t, thresholds, rngs(light.shape[1], seed))


def one_pixel(camera, logs, t):
    (events,) = record(camera, np.reshape(logs, (-1, 1, 1, 1)), t)
    return list(zip(events.t.tolist(), events.p.tolist(), strict=True))


@pytest.mark.parametrize("change", [0.1, 0.5, -0.5, 1.0 + 1e-9, -1.3])
@pytest.mark.parametrize("threshold", [0.2, 0.35])
def test_a_change_gives_an_event_per_threshold_that_it_passes(change, threshold):
    """Each at the time at which a logarithm that changes evenly is there."""
    found = one_pixel(camera(threshold=threshold), [0, change], [1000, 2000])
    passed = int(abs(change) / threshold)
    times = [round(1000 + 1000 * n * threshold / abs(change)) for n in range(1, passed + 1)]
    assert found == [(t, int(change > 0)) for t in times]


def test_the_way_back_begins_at_what_the_pixel_remembers():
    """Up by 2.5 thresholds, two events; half a threshold above what is remembered, so one darker after 1.5 down."""
    found = one_pixel(camera(), [0, 0.5, 0.3, 0.1, 0.1], [0, 1000, 2000, 3000, 4000])
    assert found == [(400, 1), (800, 1), (2500, 0)]


def test_contrast_counts_and_not_brightness():
    dim, bright = (np.array([[[level]], [[2 * level]]])[:, None] - 0.1 for level in (0.15, 0.45))
    times = [camera().record(light, [0, 100], np.full((1, 1), 0.2), rngs())[0].t.tolist() for light in (dim, bright)]
    assert times[0] == times[1] == [round(100 * n * 0.2 / np.log(2)) for n in (1, 2, 3)]


def test_a_leak_gives_brighter_events_at_its_rate_and_makes_darker_ones_fewer():
    still = one_pixel(camera(leak=2.0), [0, 0, 0], [0, 900_000, 1_600_000])
    assert still == [(500_000, 1), (1_000_000, 1), (1_500_000, 1)]
    assert one_pixel(camera(leak=2.0), [0, -0.4], [0, 1_000_000]) == []
    assert one_pixel(camera(), [0, -0.42], [0, 1_000_000]) == [(476_190, 0), (952_381, 0)]


def test_a_pixel_is_silent_for_its_refractory_time_and_forgets_what_it_would_have_told():
    """Events every 100 us: after 100, those at 200 and 300 are lost, and the next is that at 400."""
    found = one_pixel(camera(refractory=250), [0, 2.01], [0, 1005])
    assert [t for t, _ in found] == [100, 400, 700, 1000]
    assert len(one_pixel(camera(refractory=100), [0, 2.01], [0, 1005])) == 10  # it ends after 100 us
    pair = np.stack([np.zeros(2), np.full(2, 2.01)]).reshape(2, 1, 1, 2)
    (both,) = record(camera(refractory=250), pair, [0, 1005])  # pixels do not silence each other
    assert both.t.tolist() == [100, 100, 400, 400, 700, 700, 1000, 1000]
    assert both.x.tolist() == [0, 1] * 4


def test_thresholds_spread_over_the_pixels_and_stay_with_them():
    one = Camera(spread=0.05)
    thresholds = one.thresholds(100, 100, seed=3)
    assert thresholds.mean() == pytest.approx(0.2, abs=0.002)
    assert thresholds.std() == pytest.approx(0.05, abs=0.002)
    assert (thresholds == one.thresholds(100, 100, seed=3)).all()
    assert (thresholds != one.thresholds(100, 100, seed=4)).any()
    assert Camera(spread=1.0).thresholds(100, 100, 0).min() == 0.01
    light = np.exp([np.zeros((1, 100, 100)), np.ones((1, 100, 100))]) * 0.3 - one.dark
    quiet = Camera(**{**QUIET, "spread": 0.05})
    (events,) = quiet.record(light, [0, 1_000_000], thresholds, rngs())
    counts = np.zeros((100, 100))
    np.add.at(counts, (events.y, events.x), 1)
    assert (counts == (1 / thresholds).astype(int)).all()


def test_noise_has_its_rate_and_both_polarities():
    (events,) = record(camera(noise=5.0), np.zeros((2, 1, 40, 50)), [0, 2_000_000])
    assert len(events) == pytest.approx(5 * 2 * 40 * 50, rel=0.03)
    assert events.p.mean() == pytest.approx(0.5, abs=0.02)
    assert events.sensor == (50, 40)
    assert events.x.max() == 49
    assert events.y.max() == 39
    assert events.t.max() < 2_000_000


def test_a_scene_has_the_same_events_alone_and_beside_others():
    images = np.random.default_rng(0).random((3, 6, 5))
    paths = np.stack([random_walk(2.0, 20, rng) for rng in rngs(3)])
    t = list(range(0, 20_000, 1000))
    one = Camera(noise=50.0)
    thresholds = one.thresholds(6, 5, 0)
    together = one.record(moved(images, paths), t, thresholds, rngs(3))
    for n, events in enumerate(together):
        (alone,) = one.record(moved(images[n : n + 1], paths[n : n + 1]), t, thresholds, rngs(3)[n : n + 1])
        assert len(events) > 20
        for name in "txyp":
            assert (getattr(events, name) == getattr(alone, name)).all()


def test_events_are_those_of_a_pixel_at_a_time():
    """A plain loop over pixels, samples and thresholds."""
    rng = np.random.default_rng(1)
    logs = rng.normal(0, 0.5, (12, 1, 3, 4)).cumsum(axis=0)
    logs -= logs[0]
    t = np.sort(rng.choice(10_000, 12, replace=False)).tolist()
    one = camera(spread=0.05, leak=40.0)
    thresholds = one.thresholds(3, 4, 0)
    (events,) = record(one, logs, t)
    expected = []
    for y, x in np.ndindex(3, 4):
        level = logs[:, 0, y, x] / thresholds[y, x] + 40e-6 * (np.array(t) - t[0])
        remembered = 0
        for n in range(11):
            while abs(level[n + 1] - remembered) >= 1:
                remembered += 1 if level[n + 1] > remembered else -1
                share = (remembered - level[n]) / (level[n + 1] - level[n])
                expected.append((round(t[n] + share * (t[n + 1] - t[n])), x, y, int(level[n + 1] > level[n])))
    found = list(zip(*(getattr(events, name).tolist() for name in "txyp"), strict=True))
    assert len(found) > 100
    assert sorted(found) == sorted(expected)


def test_nothing_moves_and_nothing_is_told():
    image = np.random.default_rng(0).random((1, 5, 5))
    still = moved(image, np.zeros((1, 8, 2)))
    (events,) = camera().record(still, list(range(8)), np.full((5, 5), 0.2), rngs())
    assert len(events) == 0
    assert events.sensor == (5, 5)


def test_an_image_moves_along_its_path():
    image = np.zeros((1, 4, 5))
    image[0, 1, 2] = 1.0
    paths = np.array([[[0, 0], [1, 0], [0, 2], [-0.25, 0.5], [9, 0]]])
    there, right, below, between, gone = (sample[0] for sample in moved(image, paths))
    assert (there == image[0]).all()
    assert np.argwhere(right).tolist() == [[1, 3]]
    assert np.argwhere(below).tolist() == [[3, 2]]
    assert between[1:3, 1:3].tolist() == [[0.125, 0.375], [0.125, 0.375]]
    assert not gone.any()


def test_what_comes_in_becomes_brighter_and_what_leaves_darker():
    """A bright dot that moves by one pixel to the right."""
    image = np.zeros((1, 3, 5))
    image[0, 1, 2] = 1.0
    (events,) = camera().record(moved(image, np.array([[[0, 0], [1, 0]]])), [0, 100], np.full((3, 5), 0.2), rngs())
    passed = int(np.log(1.1 / 0.1) / 0.2)
    assert sorted(set(zip(events.x.tolist(), events.y.tolist(), events.p.tolist(), strict=True))) == [
        (2, 1, 0),
        (3, 1, 1),
    ]
    assert len(events) == 2 * passed


def test_saccades_go_around_a_triangle_in_equal_times():
    path = saccades(2.0, 31)
    assert np.hypot(*path.T).max() == pytest.approx(2.0)
    assert np.allclose(path[0], path[-1])
    steps = np.hypot(*np.diff(path, axis=0).T)
    assert np.allclose(steps, 2.0 * np.sqrt(3) / 10)
    assert np.allclose(path[:30].mean(axis=0), 0)


def test_a_walk_stays_within_reach_and_starts_in_the_middle():
    path = random_walk(1.5, 2000, np.random.default_rng(0))
    assert np.abs(path).max() <= 1.5
    starts = [random_walk(1.5, 2, rng)[0] for rng in rngs(200)]
    assert np.std(starts) == pytest.approx(1.5 / 4, rel=0.15)
    assert np.mean(starts) == pytest.approx(0, abs=0.1)
    steps = np.abs(np.diff(path, axis=0))
    assert steps.max() < 1.5 * 1.5
    assert path.std() > 0.5
    assert (random_walk(0.0, 5, np.random.default_rng(0)) == 0).all()


@pytest.mark.parametrize(
    ("option", "value"), [("threshold", 0.0), ("dark", -1.0), ("spread", -0.1), ("refractory", -1), ("noise", np.inf)]
)
def test_a_camera_that_cannot_be_is_refused(option, value):
    with pytest.raises(ConfigError, match=f"{option} of a camera is a number"):
        Camera(**{option: value})

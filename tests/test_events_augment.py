"""What is drawn for recordings, and what holds of images as well."""

import numpy as np
import pytest
import torch

from isospike.data import Augment, AugmentSpec
from isospike.data.augment import change_events, keep_steps, roll
from isospike.data.policy import RandAugmentSpec
from isospike.errors import ConfigError

T, B, H, W = 5, 6, 9, 7


def rng(seed=0):
    return np.random.default_rng(seed)


def frames():
    return torch.randint(0, 4, (T, B, 2, H, W), dtype=torch.uint8)


def augmented(x, seed=3, **options):
    labels = torch.arange(x.shape[-4]) % 3
    return Augment(AugmentSpec(**options), (0.0, 0.0), (1 / 255, 1 / 255), 3).train(x, labels, seed)


def test_counts_are_what_the_network_reads():
    x = frames()
    torch.testing.assert_close(augmented(x)[0], x.float(), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "options", [{"crop": 2, "flip": True}, {"roll": 3}, {"cutout": 4}, {"mixup": 1.0}, {"cutmix": 1.0}]
)  # fmt: skip
def test_all_steps_of_a_recording_are_changed_alike(options):
    """Each is what the same draw makes of images that are that step alone."""
    x = frames()
    found, targets = augmented(x, **options)
    assert found.shape == x.shape
    for step in range(T):
        alone, same = augmented(x[step], **options)
        torch.testing.assert_close(found[step], alone)
        assert torch.equal(targets, same)
    assert not torch.equal(found, x.float())


def test_roll_moves_each_image_around_its_borders():
    x = torch.arange(40 * H * W).view(40, 1, H, W)
    y = roll(x, rng(), 2)
    moves = {
        (dy, dx): torch.roll(x, (dy, dx), (-2, -1)) for dy in range(-2, 3) for dx in range(-2, 3)
    }  # fmt: skip
    seen = [next(move for move, rolled in moves.items() if torch.equal(rolled[n], y[n])) for n in range(40)]
    assert len(set(seen)) > 10


def test_kept_steps_are_in_order_and_the_same_for_all():
    x = torch.arange(16).view(16, 1, 1, 1, 1).expand(16, B, 2, H, W)
    kept = keep_steps(x, rng(), 12)
    steps = kept[:, 0, 0, 0, 0]
    assert len(steps) == 12
    assert (steps.diff() > 0).all()
    assert (kept == steps.view(12, 1, 1, 1, 1)).all()
    drawn = {tuple(keep_steps(x, rng(seed), 12)[:, 0, 0, 0, 0].tolist()) for seed in range(20)}
    assert len(drawn) > 10


def test_events_are_dropped_one_by_one():
    x = torch.full((4, 50, 2, 20, 20), 3, dtype=torch.uint8)
    x[:, :, 0] = 0
    y = change_events(x, rng(), 0.25, 0.0)
    assert not y[:, :, 0].any()
    shares = torch.bincount(y[:, :, 1].flatten()) / y[:, :, 1].numel()
    expected = torch.tensor([0.25**3, 3 * 0.25**2 * 0.75, 3 * 0.25 * 0.75**2, 0.75**3])  # binomial
    torch.testing.assert_close(shares, expected, atol=0.006, rtol=0)  # 80,000 draws: 3.5 standard deviations


def test_noise_is_added_as_by_poisson():
    x = torch.full((4, 50, 2, 20, 20), 255, dtype=torch.uint8)
    y = change_events(x, rng(), 0.0, 0.5) - 255
    shares = (torch.bincount(y.flatten()) / y.numel())[:3]
    expected = torch.exp(torch.tensor(-0.5)) * torch.tensor([1, 0.5, 0.125])
    torch.testing.assert_close(shares, expected, atol=0.005, rtol=0)  # 160,000 cells: 4 standard deviations


def test_the_seed_decides_everything():
    x = frames()
    options = {"crop": 1, "flip": True, "roll": 2, "keep_steps": 3, "drop": 0.2, "noise": 0.1, "mixup": 0.5}
    one, other = augmented(x, **options), augmented(x, **options)
    assert torch.equal(one[0], other[0])
    assert torch.equal(one[1], other[1])
    assert not torch.equal(one[0], augmented(x, seed=4, **options)[0])


@pytest.mark.parametrize(
    ("options", "steps", "message"),
    [
        ({"keep_steps": 3}, None, "augment.keep_steps is for recordings of events, and these data are images"),
        ({"drop": 0.1}, None, "augment.drop is for recordings"),
        ({"noise": 0.1}, None, "augment.noise is for recordings"),
        ({"keep_steps": 6}, 5, "augment.keep_steps=6 is more than the 5 steps of these recordings"),
        ({"policy": RandAugmentSpec(kind="randaugment")}, 5, "augment.policy is for images, and these data"),
    ],
)  # fmt: skip
def test_what_does_not_fit_the_data_is_refused(options, steps, message):
    with pytest.raises(ConfigError, match=message):
        AugmentSpec(**options).check_fits(steps)

import numpy as np
import pytest
import torch

from isospike.data import Augment, AugmentSpec
from isospike.data.augment import crop_and_flip, cutmix, cutout, mixup
from isospike.data.policy import AutoAugmentSpec, RandAugmentSpec

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)


def images(count=16, size=8):
    return torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8)


def rng(seed=0):
    return np.random.default_rng(seed)


def test_normalisation_by_its_formula():
    x = images()
    expected = (x.double() / 255 - torch.tensor(MEAN).double().view(3, 1, 1)) / torch.tensor(STD).double().view(3, 1, 1)
    found = Augment(AugmentSpec(), MEAN, STD, 10).test(x)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, atol=1e-6, rtol=1e-6)


def test_no_augmentation_is_normalisation_alone():
    x, labels = images(), torch.arange(16) % 10
    augment = Augment(AugmentSpec(), MEAN, STD, 10)
    y, targets = augment.train(x, labels, seed=1)
    assert torch.equal(y, augment.test(x))
    assert torch.equal(targets, labels)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("padding", [0, 1, 3])
def test_every_crop_is_a_window_of_the_padded_image_or_its_mirror(padding, flip):
    x = images(64)
    y = crop_and_flip(x, rng(), padding=padding, flip=flip)
    assert y.dtype == torch.uint8
    padded = torch.nn.functional.pad(x, (padding,) * 4)
    starts = range(2 * padding + 1)
    places = set()
    for before, after in zip(padded, y, strict=True):
        windows = {(top, left): before[:, top : top + 8, left : left + 8] for top in starts for left in starts}
        found = [(place, False) for place, w in windows.items() if torch.equal(w, after)]
        found += [(place, True) for place, w in windows.items() if flip and torch.equal(w.flip(-1), after)]
        assert found
        places.add(found[0])
    assert len({place for place, _ in places}) == min(len(starts) ** 2, len({p for p, _ in places}))
    assert len(places) > (padding > 0) + flip
    assert {mirrored for _, mirrored in places} == ({False, True} if flip else {False})


def test_cutout_sets_one_square_per_image_to_the_mean():
    x = torch.ones(32, 3, 12, 12)
    y = cutout(x, rng(), 4)
    holes = (y == 0).all(1)
    assert torch.equal(holes, (y == 0).any(1))
    for hole in holes:
        rows, columns = hole.any(1).nonzero(), hole.any(0).nonzero()
        height, width = len(rows), len(columns)
        assert hole.sum() == height * width > 0
        assert height <= 4
        assert width <= 4
    assert (holes.sum((1, 2)) == 16).sum() > 5
    assert len({tuple(h.nonzero()[0].tolist()) for h in holes}) > 10


def one_hot(labels):
    return torch.nn.functional.one_hot(labels, 16).float()


def test_mixup_shares_images_and_targets_alike():
    """With one-hot images the mixed image is its own target."""
    targets = one_hot(torch.arange(16))
    x = targets.view(16, 1, 4, 4)
    y, mixed = mixup(x, targets, rng(3), alpha=1.0)
    assert torch.equal(y.flatten(1), mixed)
    torch.testing.assert_close(mixed.sum(1), torch.ones(16))
    assert 0.01 < mixed.diagonal().median() < 0.99


def test_cutmix_shares_targets_by_area():
    x = torch.arange(16.0).view(16, 1, 1, 1).expand(16, 1, 10, 10).contiguous()
    mixed_some = 0
    for seed in range(8):
        y, targets = cutmix(x, one_hot(torch.arange(16)), rng(seed), alpha=1.0)
        for index in range(16):
            values, counts = y[index].unique(return_counts=True)
            expected = torch.zeros(16).index_put((values.long(),), counts / 100)
            torch.testing.assert_close(targets[index], expected)
            mixed_some += len(values) == 2
    assert mixed_some > 40


def test_with_both_each_batch_draws_mixup_or_cutmix():
    augment = Augment(AugmentSpec(mixup=1.0, cutmix=1.0), MEAN, STD, 16)
    x = torch.arange(16, dtype=torch.uint8).view(16, 1, 1, 1).expand(16, 3, 8, 8) * 16
    flat = 0
    for seed in range(40):
        y, _ = augment.train(x, torch.arange(16), seed)
        flat += bool((y == y[..., :1, :1]).all())  # mixup keeps an image of one colour, a cut does not
    assert 8 < flat < 32


@pytest.mark.parametrize(
    "spec",
    [
        AugmentSpec(crop=2, flip=True, cutout=3),
        AugmentSpec(mixup=0.4),
        AugmentSpec(cutmix=1.0),
        AugmentSpec(policy=RandAugmentSpec(kind="randaugment", n=2, m=9)),
        AugmentSpec(policy=AutoAugmentSpec(kind="autoaugment", table="cifar10")),
        AugmentSpec(policy=AutoAugmentSpec(kind="autoaugment", table="imagenet")),
    ],
    ids=str,
)
def test_the_seed_of_the_batch_decides_and_nothing_else(spec):
    augment = Augment(spec, MEAN, STD, 10)
    x, labels = images(24, size=16), torch.arange(24) % 10
    before = x.clone()
    torch.manual_seed(1)
    first, targets = augment.train(x, labels, seed=5)
    torch.manual_seed(2)
    state = torch.random.get_rng_state()
    second, again = augment.train(x, labels, seed=5)
    assert torch.equal(first, second)
    assert torch.equal(targets, again)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not torch.equal(first, augment.train(x, labels, seed=6)[0])
    assert torch.equal(x, before)


@pytest.mark.parametrize("rounds", [1, 2])
def test_every_image_draws_its_own_operation(rounds):
    """A batch of one image many times comes out in many ways."""
    spec = AugmentSpec(policy=RandAugmentSpec(kind="randaugment", n=rounds, m=9))
    x = images(1, size=16).expand(64, 3, 16, 16)
    y, _ = Augment(spec, MEAN, STD, 10).train(x, torch.zeros(64, dtype=torch.long), seed=0)
    assert len({tuple(image.flatten().tolist()) for image in y}) > 8

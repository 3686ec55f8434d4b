import pytest
import torch

from isospike.data import Loader, class_weights
from isospike.data.images import ArrayImages
from isospike.errors import DataError


def numbered(count):
    """Images that say their own index."""
    index = torch.arange(count)
    return ArrayImages(index.to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 2, 2).contiguous(), index % 7)


def indices(batches):
    return [batch.images[:, 0, 0, 0].tolist() for batch in batches]


def test_an_epoch_brings_every_image_at_most_once_with_its_label():
    loader = Loader(numbered(50), 8, shuffle=True, seed=1)
    batches = list(loader.epoch(0))
    assert len(batches) == len(loader) == 6
    seen = [i for batch in indices(batches) for i in batch]
    assert len(set(seen)) == 48
    for batch in batches:
        assert torch.equal(batch.labels, batch.images[:, 0, 0, 0].long() % 7)


def test_testing_brings_every_image_once_in_order():
    loader = Loader(numbered(50), 8, shuffle=False)
    assert len(loader) == 7
    assert sum(indices(loader.epoch(0)), []) == list(range(50))


def test_seed_and_epoch_decide_the_order():
    loader = Loader(numbered(50), 8, shuffle=True, seed=1)
    assert indices(loader.epoch(3)) == indices(Loader(numbered(50), 8, shuffle=True, seed=1).epoch(3))
    assert indices(loader.epoch(3)) != indices(loader.epoch(4))
    assert indices(loader.epoch(3)) != indices(Loader(numbered(50), 8, shuffle=True, seed=2).epoch(3))


def test_an_epoch_can_be_entered_anywhere():
    loader = Loader(numbered(50), 8, shuffle=True, seed=1)
    whole = list(loader.epoch(2))
    rest = list(loader.epoch(2, start=4))
    assert indices(rest) == indices(whole[4:])
    assert [b.seed for b in rest] == [b.seed for b in whole[4:]]
    assert len({b.seed for b in whole}) == 6
    assert list(loader.epoch(2, start=6)) == []


@pytest.mark.parametrize("shuffle", [True, False])
def test_processes_share_every_batch(shuffle):
    alone = indices(Loader(numbered(50), 8, shuffle=shuffle, seed=1).epoch(0))
    shares = [indices(Loader(numbered(50), 4, shuffle=shuffle, seed=1, rank=r, world=2).epoch(0)) for r in (0, 1)]
    assert [sorted(a + b) for a, b in zip(*shares, strict=True)] == [sorted(batch) for batch in alone]


def test_fewer_images_than_a_batch_are_refused():
    with pytest.raises(DataError, match="5 training images are fewer than a batch of 8: lower train.batch_size"):
        Loader(numbered(5), 4, shuffle=True, world=2)


WEIGHTS = torch.tensor([1.0, 2, 3, 4, 5, 6, 7])


def test_images_are_drawn_as_often_as_their_class_weighs():
    loader = Loader(numbered(50), 10, shuffle=True, seed=1, class_weights=WEIGHTS)
    drawn = [loader._drawn(torch.Generator().manual_seed(n)) for n in range(400)]
    counts = torch.bincount(torch.cat(drawn), minlength=50).double()
    weights = WEIGHTS.double()[torch.arange(50) % 7]
    expected = 400 * 50 * weights / weights.sum()
    assert ((counts - expected).abs() < 5 * expected.sqrt()).all()
    assert {len(indices) for indices in drawn} == {50}


def test_weighted_epochs_are_decided_by_seed_and_epoch_and_can_be_entered_anywhere():
    loader = Loader(numbered(50), 8, shuffle=True, seed=1, class_weights=WEIGHTS)
    again = Loader(numbered(50), 8, shuffle=True, seed=1, class_weights=WEIGHTS)
    assert indices(loader.epoch(3)) == indices(again.epoch(3))
    assert indices(loader.epoch(3)) != indices(loader.epoch(4))
    assert indices(loader.epoch(3, start=4)) == indices(loader.epoch(3))[4:]
    assert len(loader) == 6


def test_processes_share_what_was_drawn():
    alone = indices(Loader(numbered(50), 8, shuffle=True, seed=1, class_weights=WEIGHTS).epoch(0))
    shares = [
        indices(Loader(numbered(50), 4, shuffle=True, seed=1, rank=r, world=2, class_weights=WEIGHTS).epoch(0))
        for r in (0, 1)
    ]
    assert [sorted(a + b) for a, b in zip(*shares, strict=True)] == [sorted(batch) for batch in alone]


@pytest.mark.parametrize("spec", ["balanced", (3.0, 1.0, 5.0)])
def test_weights_of_classes_are_1_on_average_over_the_images(spec):
    labels = torch.tensor([0] * 6 + [1] * 3 + [2])
    weights = class_weights(spec, labels, 3, "x")
    assert weights[labels].mean().item() == pytest.approx(1)
    if spec == "balanced":
        assert torch.bincount(labels) * weights == pytest.approx([10 / 3] * 3)
    else:
        assert (weights / weights[1]).tolist() == pytest.approx(spec)


def test_a_class_without_an_image_has_a_weight_that_is_finite():
    assert class_weights("balanced", torch.tensor([0, 0, 2]), 3, "x").isfinite().all()
    assert class_weights(None, torch.tensor([0]), 1, "x") is None

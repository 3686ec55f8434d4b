import pytest
import torch

from isospike.data import Loader
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

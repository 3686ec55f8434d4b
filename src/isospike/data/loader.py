"""Batches in an order that seed and epoch alone decide."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from isospike.data.images import Images
from isospike.errors import DataError
from isospike.seeding import derive_seed


@dataclass(frozen=True)
class Batch:
    """A part of a split.

    Args:
        images: uint8 ``[B, C, H, W]``, or counts of events ``[T, B, C, H, W]``.
        labels: int64 ``[B]``.
        seed: For what is drawn for this batch.
        indices: Places of the images in the split, int64 ``[B]``.
    """

    images: Tensor
    labels: Tensor
    seed: int
    indices: Tensor


class Loader:
    """Goes through a split epoch by epoch, from any batch on.

    In training every epoch has a new permutation, and a last batch that would be incomplete is left out (another
    permutation brings its images back); with weights as many images are drawn, each as often as its class weighs. In
    testing every image comes once, in order.

    Args:
        images: The split.
        batch_size: Images per batch and process.
        shuffle: For training.
        seed: Of the run.
        rank: Of this process; each of ``world`` processes gets its own share of every batch.
        world: Number of processes.
        class_weights: In training, how much likelier than another an image of each class is, ``[num_classes]``.

    Raises:
        DataError: there are fewer images than one training batch takes.
    """

    def __init__(
        self,
        images: Images,
        batch_size: int,
        *,
        shuffle: bool,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
        class_weights: Tensor | None = None,
    ) -> None:
        self.images, self.batch_size, self.shuffle = images, batch_size, shuffle
        self.seed, self.rank, self.world = seed, rank, world
        self.class_weights = class_weights
        if shuffle and len(self) == 0:
            raise DataError(
                f"{len(images)} training images are fewer than a batch of {batch_size * world}: "
                "lower train.batch_size or bring more images"
            )

    def __len__(self) -> int:
        """Return the number of batches per epoch."""
        joint = self.batch_size * self.world
        return len(self.images) // joint if self.shuffle else -(-len(self.images) // joint)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch, from number ``start`` on."""
        order = self._order(epoch)[start:]
        reading = derive_seed(self.seed, epoch, 0)
        for number, images in enumerate(self.images.batches(order, reading), start):
            indices = order[number - start]
            seed = derive_seed(self.seed, epoch, 1, number, self.rank)
            yield Batch(images, self.images.labels[indices], seed, indices)

    def _order(self, epoch: int) -> list[Tensor]:
        """Return the indices of every batch of this process."""
        if self.shuffle:
            generator = torch.Generator().manual_seed(derive_seed(self.seed, epoch, 2))
            indices = self._drawn(generator)
        else:
            indices = torch.arange(len(self.images))
        joint = self.batch_size * self.world
        return [batch[self.rank :: self.world] for batch in indices.split(joint)[: len(self)]]

    def _drawn(self, generator: torch.Generator) -> Tensor:
        """Return the images of an epoch of training, alike in all processes."""
        if self.class_weights is None:
            return torch.randperm(len(self.images), generator=generator)
        weights = self.class_weights.double()[self.images.labels]
        return torch.multinomial(weights, len(self.images), replacement=True, generator=generator)

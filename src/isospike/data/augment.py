"""What happens to whole uint8 batches on their way to the network, on whatever device they are."""

from collections.abc import Sequence
from typing import Annotated

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt
from torch import Tensor

from isospike.data.policy import AutoAugmentSpec, Policy, RandAugmentSpec
from isospike.data.transfer import to_device
from isospike.errors import ConfigError
from isospike.spec import Share, Spec


class AugmentSpec(Spec):
    """What is done to training images; nothing by default.

    ``crop``: pixels of black border before a random crop of the old size. ``flip``: mirror half of the images.
    ``cutout``: side of a square that is set to the mean. ``mixup``, ``cutmix``: their alpha, 0 for none; with both,
    each batch draws one of the two. ``roll``: most pixels of a shift in each direction, where what leaves on one side
    comes in on the other.

    Of recordings of events alone: ``keep_steps``, how many of the time steps a batch keeps, in their order; ``drop``,
    share of the events that is left out; ``noise``, mean number of events that each cell of a frame has besides.
    What is drawn for one recording holds in all its steps.
    """

    crop: NonNegativeInt = 0
    flip: bool = False
    policy: Annotated[RandAugmentSpec | AutoAugmentSpec, Field(discriminator="kind")] | None = None
    cutout: NonNegativeInt = 0
    mixup: NonNegativeFloat = 0.0
    cutmix: NonNegativeFloat = 0.0
    roll: NonNegativeInt = 0
    keep_steps: PositiveInt | None = None
    drop: Share = 0.0
    noise: NonNegativeFloat = 0.0

    def check_fits(self, T: int | None) -> None:
        """Refuse what such data cannot have.

        Args:
            T: Steps of the recordings; None for images that do not move.

        Raises:
            ConfigError: with the key.
        """
        of_events = {"keep_steps": self.keep_steps, "drop": self.drop, "noise": self.noise}
        if T is None:
            for key in (key for key, value in of_events.items() if value):
                raise ConfigError(f"augment.{key} is for recordings of events, and these data are images")
        elif self.policy is not None:
            raise ConfigError("augment.policy is for images, and these data are recordings of events")
        elif self.keep_steps is not None and self.keep_steps > T:
            raise ConfigError(f"augment.keep_steps={self.keep_steps} is more than the {T} steps of these recordings")


class Augment:
    """Augments and normalises batches.

    Everything drawn comes from the seed of the batch. In order: steps, events dropped and added, crop and flip, roll, a
    learned or random policy, normalisation, cutout, mixup or cutmix.

    Args:
        spec: What to do in training.
        mean: Of the data, per channel, for images in [0, 1].
        std: Likewise.
        num_classes: For the soft targets of mixup and cutmix.
    """

    def __init__(self, spec: AugmentSpec, mean: Sequence[float], std: Sequence[float], num_classes: int) -> None:
        self.spec, self.num_classes = spec, num_classes
        # One multiply-add: x / 255 - mean over std.
        self._gain = 1 / (255 * torch.tensor(std)).view(-1, 1, 1)
        self._offset = -(torch.tensor(mean) / torch.tensor(std)).view(-1, 1, 1)
        self._policy: Policy | None = None if spec.policy is None else spec.policy.build()

    def test(self, images: Tensor) -> Tensor:
        """Normalise uint8 ``[B, C, H, W]``, or counts ``[T, B, C, H, W]``, to float32."""
        self._gain, self._offset = (to_device(tensor, images.device) for tensor in (self._gain, self._offset))
        return torch.addcmul(self._offset, images.float(), self._gain)

    def train(self, images: Tensor, labels: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        """Augment images ``[B, C, H, W]`` or frames ``[T, B, C, H, W]``, and return float32 with targets.

        Targets are the labels ``[B]``, or shares ``[B, num_classes]`` where images were mixed.
        """
        rng = np.random.default_rng(seed)
        if images.ndim == 4:
            return self._train(images, labels, rng)
        frames = change_events(keep_steps(images, rng, self.spec.keep_steps), rng, self.spec.drop, self.spec.noise)
        x, targets = self._train(frames.transpose(0, 1), labels, rng)
        return x.transpose(0, 1), targets

    def _train(self, images: Tensor, labels: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Augment images ``[B, C, H, W]`` or frames ``[B, T, C, H, W]``, each alike in all its maps."""
        spec = self.spec
        if spec.crop or spec.flip:
            images = crop_and_flip(images.flatten(1, -3), rng, padding=spec.crop, flip=spec.flip).reshape(images.shape)
        if spec.roll:
            images = roll(images.flatten(1, -3), rng, spec.roll).reshape(images.shape)
        if self._policy is not None:
            images = self._policy(images, rng)
        x = self.test(images)
        if spec.cutout:
            x = cutout(x.flatten(1, -3), rng, spec.cutout).reshape(x.shape)
        if spec.mixup and (not spec.cutmix or rng.random() < 0.5):
            return mixup(x, F.one_hot(labels, self.num_classes).float(), rng, spec.mixup)
        if spec.cutmix:
            return cutmix(x, F.one_hot(labels, self.num_classes).float(), rng, spec.cutmix)
        return x, labels


def crop_and_flip(images: Tensor, rng: np.random.Generator, *, padding: int, flip: bool) -> Tensor:
    """Cut a random window of the old size from images with a black border, mirrored with probability 1/2."""
    B, _, H, W = images.shape
    rows = torch.from_numpy(rng.integers(0, 2 * padding + 1, B))[:, None] + torch.arange(H)
    columns = torch.from_numpy(rng.integers(0, 2 * padding + 1, B))[:, None] + torch.arange(W)
    if flip:
        mirrored = torch.from_numpy(rng.random(B) < 0.5)[:, None]
        columns = torch.where(mirrored, columns.flip(1), columns)
    return _gathered(F.pad(images, (padding,) * 4), rows, columns)


def roll(images: Tensor, rng: np.random.Generator, most: int) -> Tensor:
    """Shift each image ``[B, C, H, W]`` by up to ``most`` pixels along rows and columns, around its borders."""
    B, H, W = len(images), *images.shape[-2:]
    rows, columns = (
        (torch.from_numpy(rng.integers(-most, most + 1, B))[:, None] + torch.arange(side)) % side for side in (H, W)
    )
    return _gathered(images, rows, columns)


def _gathered(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Gather rows ``[B, H']`` and columns ``[B, W']`` of each image ``[B, C, H, W]``."""
    batch = torch.arange(len(images))[:, None, None]
    index = (batch, slice(None), rows[:, :, None], columns[:, None, :])
    return images[tuple(to_device(i, images.device) if isinstance(i, Tensor) else i for i in index)].permute(0, 3, 1, 2)


def keep_steps(frames: Tensor, rng: np.random.Generator, kept: int | None) -> Tensor:
    """Keep so many of the steps of ``[T, ...]``, drawn for all alike, in their order; None: all."""
    if kept is None:
        return frames
    steps = torch.from_numpy(np.sort(rng.choice(len(frames), kept, replace=False)))
    return frames[to_device(steps, frames.device)]


def change_events(frames: Tensor, rng: np.random.Generator, drop: float, noise: float) -> Tensor:
    """Leave each event out with probability ``drop``, and add ``noise`` events per cell.

    That is what dropping and adding events before they are counted would give, in distribution.
    """
    if not drop and not noise:
        return frames
    counts = frames.to("cpu", torch.int32).flatten()
    if drop:
        cells = counts.nonzero()[:, 0]
        counts[cells] = torch.from_numpy(rng.binomial(counts[cells].numpy(), 1 - drop).astype(np.int32))
    if noise:
        places = torch.from_numpy(rng.integers(0, len(counts), rng.poisson(noise * len(counts))))
        counts += torch.bincount(places, minlength=len(counts)).to(torch.int32)
    return to_device(counts.view(frames.shape), frames.device)


def cutout(x: Tensor, rng: np.random.Generator, side: int) -> Tensor:
    """Set a square of each normalised image to 0, the mean; its centre is anywhere, so part may fall outside.

    Source: DeVries and Taylor 2017, arXiv:1708.04552.
    """
    B, _, H, W = x.shape
    inside = []
    for length in (H, W):
        start = torch.from_numpy(rng.integers(0, length, B))[:, None] - side // 2
        place = torch.arange(length)
        inside.append((place >= start) & (place < start + side))
    hole = inside[0][:, None, :, None] & inside[1][:, None, None, :]
    return x.masked_fill(to_device(hole, x.device), 0.0)


def mixup(x: Tensor, targets: Tensor, rng: np.random.Generator, alpha: float) -> tuple[Tensor, Tensor]:
    """Mix every image and target with another's, the share drawn from Beta(alpha, alpha) for the batch.

    Source: Zhang et al. 2018, arXiv:1710.09412.
    """
    share = float(rng.beta(alpha, alpha))
    other = to_device(torch.from_numpy(rng.permutation(len(x))), x.device)
    return torch.lerp(x[other], x, share), torch.lerp(targets[other], targets, share)


def cutmix(x: Tensor, targets: Tensor, rng: np.random.Generator, alpha: float) -> tuple[Tensor, Tensor]:
    """Put a rectangle of another image, and its share of the target, into every image.

    Source: Yun et al. 2019, arXiv:1905.04899.
    """
    H, W = x.shape[-2:]
    cut = (1 - rng.beta(alpha, alpha)) ** 0.5
    (top, bottom), (left, right) = (_window(rng, length, cut) for length in (H, W))
    other = to_device(torch.from_numpy(rng.permutation(len(x))), x.device)
    mixed = x.clone()
    mixed[..., top:bottom, left:right] = x[other][..., top:bottom, left:right]
    return mixed, torch.lerp(targets, targets[other], (bottom - top) * (right - left) / (H * W))


def _window(rng: np.random.Generator, length: int, share: float) -> tuple[int, int]:
    """Draw a window of this share of the length, around a centre anywhere, cut off at the borders."""
    centre, half = int(rng.integers(0, length)), length * share / 2
    return max(0, round(centre - half)), min(length, round(centre + half))

"""Noisy patterns, one per class: a set that needs no file, for benchmarks and trials."""

from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, PositiveInt
from torch import Tensor

from isospike.data.dataset import Dataset
from isospike.data.images import ArrayImages
from isospike.data.kinds import DATA, DataSpec


@DATA.add
class SyntheticData(DataSpec):
    """Noisy patterns, one per class, made on the spot: for benchmarks and trials without files."""

    kind: Literal["synthetic"]
    classes: Annotated[int, Field(ge=2)] = 10
    channels: PositiveInt = 3
    size: PositiveInt = 32
    train: PositiveInt = 2048
    test: PositiveInt = 512

    def load(self) -> Dataset:
        """Make the same images at every call: blurred random patterns under as much noise."""
        generator = torch.Generator().manual_seed(0)
        coarse = torch.rand(self.classes, self.channels, 4, 4, generator=generator)
        patterns = F.interpolate(coarse, size=(self.size, self.size), mode="bilinear") * 255
        return Dataset(
            name="synthetic",
            train=_split(self.train, patterns, generator),
            test=_split(self.test, patterns, generator),
            classes=tuple(f"pattern {number}" for number in range(self.classes)),
            channels=self.channels,
            size=self.size,
            mean=(0.5,) * self.channels,
            std=(0.25,) * self.channels,
        )


def _split(images: int, patterns: Tensor, generator: torch.Generator) -> ArrayImages:
    labels = torch.arange(images) % len(patterns)
    noise = torch.randn(images, *patterns.shape[1:], generator=generator) * 64
    return ArrayImages((patterns[labels] + noise).clamp(0, 255).to(torch.uint8), labels)

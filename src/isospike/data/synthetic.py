"""Noisy patterns, one per class: a set that needs no file, for benchmarks and trials."""

import torch
import torch.nn.functional as F
from torch import Tensor

from isospike.config import SyntheticData
from isospike.data.dataset import Dataset
from isospike.data.images import ArrayImages


def load(spec: SyntheticData) -> Dataset:
    """The same images at every call: blurred random patterns under as much noise."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(spec.classes, spec.channels, 4, 4, generator=generator)
    patterns = F.interpolate(coarse, size=(spec.size, spec.size), mode="bilinear") * 255
    return Dataset(
        name="synthetic",
        train=_split(spec.train, patterns, generator),
        test=_split(spec.test, patterns, generator),
        classes=tuple(f"pattern {number}" for number in range(spec.classes)),
        channels=spec.channels,
        size=spec.size,
        mean=(0.5,) * spec.channels,
        std=(0.25,) * spec.channels,
    )


def _split(images: int, patterns: Tensor, generator: torch.Generator) -> ArrayImages:
    labels = torch.arange(images) % len(patterns)
    noise = torch.randn(images, *patterns.shape[1:], generator=generator) * 64
    return ArrayImages((patterns[labels] + noise).clamp(0, 255).to(torch.uint8), labels)

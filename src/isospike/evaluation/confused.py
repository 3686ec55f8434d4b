"""The test images that a network puts into a wrong class with the highest probability, as small pictures."""

import base64
import io
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from isospike.data import Dataset

KEPT = 24  # images
LARGEST_SIDE = 64  # pixels: larger ones are scaled down, so that all of them take less than half a megabyte


@dataclass(frozen=True)
class _Wrong:
    probability: float
    index: int
    true: int
    guess: int
    pixels: Tensor


@dataclass(frozen=True)
class WrongImage:
    """An image put into a wrong class.

    Args:
        index: In the test split.
        true: Its class.
        guess: What it was taken for.
        probability: Of the guess.
        png: The image, encoded and in base64.
    """

    index: int
    true: int
    guess: int
    probability: float
    png: str


class Confused:
    """Sees batch after batch and keeps the few images that it will need."""

    def __init__(self) -> None:
        self._kept: list[_Wrong] = []

    def add(self, images: Tensor, labels: Tensor, logits: Tensor, indices: Tensor) -> None:
        """See a batch.

        Args:
            images: uint8 ``[B, C, H, W]``, or counts ``[T, B, 2, H, W]``.
            labels: int64 ``[B]``.
            logits: Their mean over time, ``[B, K]``.
            indices: Places of the images in the split, ``[B]``.
        """
        probabilities, guesses = logits.float().softmax(-1).max(-1)
        wrong = (guesses != labels).nonzero()[:, 0]
        wrong = wrong[probabilities[wrong].argsort(descending=True, stable=True)[:KEPT]]
        for place in wrong.tolist():
            probability, guess = float(probabilities[place]), int(guesses[place])
            pixels = images.select(-4, place).cpu()
            self._kept.append(_Wrong(probability, int(indices[place]), int(labels[place]), guess, pixels))
        self._kept.sort(key=lambda found: (-found.probability, found.index))
        del self._kept[KEPT:]

    def images(self) -> list[WrongImage]:
        """Return those kept, the highest probability first."""
        return [WrongImage(w.index, w.true, w.guess, w.probability, _png(w.pixels)) for w in self._kept]


def merge(parts: list[list[WrongImage]]) -> tuple[WrongImage, ...]:
    """Merge what several processes kept, as one of them would have kept it."""
    every = sorted((image for part in parts for image in part), key=lambda i: (-i.probability, i.index))
    return tuple(every[:KEPT])


def confused_as_dict(images: tuple[WrongImage, ...], dataset: Dataset, *, checkpoint: str) -> dict[str, Any]:
    """Return plain values for ``analysis/confused.json``, with the classes by their names."""
    names = dataset.classes
    return {
        "data": dataset.name,
        "checkpoint": checkpoint,
        "images": [{**vars(image), "true": names[image.true], "guess": names[image.guess]} for image in images],
    }


def _balance(counts: Tensor) -> Tensor:
    """Draw grey ``[1, H, W]``: white where more became brighter, black where more became darker."""
    darker, brighter = counts.sum(0, dtype=torch.float32)
    difference = brighter - darker
    return (127.5 + 127.5 * difference / difference.abs().max().clamp(min=1)).to(torch.uint8)[None]


def _png(pixels: Tensor) -> str:
    """Encode uint8 ``[C, H, W]``, grey or colour; of more channels the first, of counts their balance."""
    if pixels.ndim == 4:
        pixels = _balance(pixels)
    array = pixels.permute(1, 2, 0).numpy() if len(pixels) == 3 else pixels[0].numpy()
    image = Image.fromarray(array)
    image.thumbnail((LARGEST_SIDE, LARGEST_SIDE))
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    return base64.b64encode(file.getvalue()).decode()

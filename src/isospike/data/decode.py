"""From a photograph of any size to a square, image by image, before there is a batch."""

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image

from isospike.errors import DataError


@dataclass(frozen=True)
class Keep:
    """Takes images as they are, all of one size."""

    size: int
    name: str

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        """Return the image.

        Raises:
            DataError: it has another size.
        """
        if image.size != (self.size, self.size):
            raise DataError(f"an image of {self.name} is {image.width}x{image.height}, not {self.size}x{self.size}")
        return image


@dataclass(frozen=True)
class CentreCrop:
    """Scales the shorter side to ``resize`` and cuts the central square of ``size``."""

    size: int
    resize: int

    def __call__(self, image: Image.Image, rng: np.random.Generator | None = None) -> Image.Image:
        """Cut the square."""
        scale = self.resize / min(image.size)
        width, height = (max(self.size, round(side * scale)) for side in image.size)
        left, top = (width - self.size) // 2, (height - self.size) // 2
        scaled = image.resize((width, height), Image.Resampling.BILINEAR)
        return scaled.crop((left, top, left + self.size, top + self.size))


@dataclass(frozen=True)
class RandomResizedCrop:
    """Cuts a random part out of the image and scales it to a square.

    Its share of the area is uniform in ``area`` and its aspect log-uniform in 3/4 to 4/3; after ten parts that do not
    fit, the central square.

    Source: Szegedy et al. 2015, arXiv:1409.4842, section 6; the ten tries are everybody's.
    """

    size: int
    area: tuple[float, float]

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        """Cut the square, scaled with antialiasing."""
        return image.resize((self.size, self.size), Image.Resampling.BILINEAR, box=self._box(image, rng))

    def _box(self, image: Image.Image, rng: np.random.Generator) -> tuple[float, float, float, float]:
        width, height = image.size
        for _ in range(10):
            area = width * height * rng.uniform(*self.area)
            aspect = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
            w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if 0 < w <= width and 0 < h <= height:
                left, top = int(rng.integers(0, width - w + 1)), int(rng.integers(0, height - h + 1))
                return left, top, left + w, top + h
        side = min(width, height)
        left, top = (width - side) // 2, (height - side) // 2
        return left, top, left + side, top + side

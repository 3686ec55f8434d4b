"""Handwritten digits that come with scikit-learn: 1,797 images of 8x8 pixels and 17 grey levels.

Source: Alpaydin and Kaynak 1998, "Optical Recognition of Handwritten Digits", UCI; scikit-learn ships its test part.
"""

from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from isospike.data.dataset import Dataset, checked_labels
from isospike.data.images import ArrayImages
from isospike.data.kinds import DATA, DataSpec
from isospike.optional import import_optional

TEST_EVERY = 5


@DATA.add
class DigitsData(DataSpec):
    """Handwritten digits that come with scikit-learn, scaled up to ``size`` pixels."""

    kind: Literal["digits"]
    size: Annotated[int, Field(ge=8)] = 8

    def load(self) -> Dataset:
        """Load 1,442 training and 355 test images, scaled up to ``self.size`` by bilinear interpolation.

        The split is fixed and stratified: every fifth image of each class, in the order of the file, is for testing.

        Raises:
            MissingExtra: scikit-learn is not installed.
        """
        bunch = import_optional("sklearn.datasets", extra="digits", purpose="the digits").load_digits()
        levels = torch.from_numpy(bunch.images).float()[:, None] * (255 / 16)
        images = F.interpolate(levels, size=(self.size, self.size), mode="bilinear").round().to(torch.uint8)
        classes = tuple(str(digit) for digit in range(10))
        labels = checked_labels(bunch.target.tolist(), classes, "scikit-learn's digits")
        test = _every_fifth_of_each_class(labels)
        share = images[~test].double() / 255
        return Dataset(
            name="digits",
            train=ArrayImages(images[~test], labels[~test]),
            test=ArrayImages(images[test], labels[test]),
            classes=classes,
            channels=1,
            size=self.size,
            mean=(share.mean().item(),),
            std=(share.std().item(),),
        )


def _every_fifth_of_each_class(labels: Tensor) -> Tensor:
    test = torch.zeros(len(labels), dtype=torch.bool)
    for label in labels.unique():
        test[(labels == label).nonzero()[:, 0][TEST_EVERY - 1 :: TEST_EVERY]] = True
    return test

"""What every data set is, once loaded."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from isospike.data.images import Images
from isospike.errors import DataError


@dataclass(frozen=True)
class Dataset:
    """Two splits of images and what is to be known of them.

    Args:
        name: For reports.
        train: Training split.
        test: Test split.
        classes: Names; labels are their indices.
        channels: Of the images.
        size: Height and width of the images as the network gets them.
        mean: Per channel, for images in [0, 1].
        std: Likewise.
        note: What must be said beside every accuracy on this copy of the data; "" for nothing.
        test_size: Height and width of the test images; None: ``size``.
        test_resize: What the shorter side of a photograph is scaled to before its centre becomes a test image; None:
            their size.
        T: Time steps of a recording, whose frames hold counts of events that are normalised as pixels are; None: the
            images do not move.
        empty_frames: How many frames of the recordings have no event; None: images.
    """

    name: str
    train: Images
    test: Images
    classes: tuple[str, ...]
    channels: int
    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    note: str = ""
    test_size: int | None = None
    test_resize: int | None = None
    T: int | None = None
    empty_frames: int | None = None

    @property
    def tested_at(self) -> int:
        """Height and width of the test images."""
        return self.test_size or self.size

    def facts(self) -> dict[str, Any]:
        """Return all but the images, for ``analysis/data.json``: enough to use a trained network without the data."""
        facts = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("train", "test")}
        return {**facts, "train_images": len(self.train), "test_images": len(self.test)}


def stratified(labels: Tensor, count: int) -> Tensor:
    """Return the indices ``[min(count, N)]`` of images of which every class has its share, to less than one image.

    Of each class they lie evenly over its images, so that an order within the class makes no difference either.
    """
    count = min(count, len(labels))
    return labels.argsort(stable=True)[torch.arange(count) * len(labels) // max(count, 1)]


def checked_labels(labels: Sequence[Any], classes: Sequence[str], where: str) -> Tensor:
    """Return labels as a tensor, once they are checked.

    Raises:
        DataError: none at all, one that is no integer or out of range, or a class without an image; says ``where``.
    """
    if len(labels) == 0:
        raise DataError(f"{where} holds no images")
    for row, label in enumerate(labels):
        if type(label) is not int:
            found = f"the label {label}" if isinstance(label, float) else f"a {type(label).__name__} as its label"
            raise DataError(f"{where}: image {row} has {found}, labels are integers")
        if not 0 <= label < len(classes):
            found = str(label) if label.bit_length() < 64 else "of more than 64 bits"
            raise DataError(f"{where}: image {row} has the label {found}, labels run from 0 to {len(classes) - 1}")
    tensor = torch.as_tensor(labels, dtype=torch.int64)
    empty = (torch.bincount(tensor, minlength=len(classes)) == 0).nonzero()
    if len(empty):
        raise DataError(f"{where} holds no image of class '{classes[int(empty[0])]}'")
    return tensor

"""A pass over a test split."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from isospike.data import Augment, Dataset, Loader
from isospike.train.distributed import World


@dataclass(frozen=True)
class Evaluation:
    """Loss, accuracy and the confusion matrix ``[true class, predicted class]`` of a split."""

    loss: float
    confusion: Tensor

    @property
    def count(self) -> int:
        """Images seen."""
        return int(self.confusion.sum())

    @property
    def accuracy(self) -> float:
        """Share of images put into their class."""
        return int(self.confusion.trace()) / self.count

    def as_dict(self, dataset: Dataset, *, checkpoint: str) -> dict[str, Any]:
        """For ``analysis/test.json``: what was tested, on what, and what came out."""
        return {
            "data": dataset.name,
            "note": dataset.note,
            "checkpoint": checkpoint,
            "images": self.count,
            "size": dataset.tested_at,
            "loss": self.loss,
            "accuracy": self.accuracy,
            "classes": list(dataset.classes),
            "confusion": self.confusion.tolist(),
        }


@torch.no_grad()
def evaluate(
    model: nn.Module, loader: Loader, augment: Augment, world: World, *, stop: Callable[[], bool] = lambda: False
) -> Evaluation | None:
    """Cross-entropy of the mean logits and the confusion matrix, in float32, over all processes.

    Args:
        model: The network; its mode is put back afterwards.
        loader: Of the test split.
        augment: Normalises the images.
        world: The processes that share the work.
        stop: Asked after every batch, by all processes alike; True ends the pass.

    Returns:
        The result, or None where it was stopped.
    """
    was_training = model.training
    model.eval()
    loss = torch.zeros((), dtype=torch.float64, device=world.device)
    classes = augment.num_classes
    confusion = torch.zeros(classes * classes, dtype=torch.int64, device=world.device)
    try:
        for batch in loader.epoch(0):
            if len(batch.labels):  # the last batch may leave nothing for this process
                labels = batch.labels.to(world.device)
                logits = model(augment.test(batch.images.to(world.device)))
                loss += F.cross_entropy(logits, labels, reduction="sum")
                confusion += torch.bincount(labels * classes + logits.argmax(-1), minlength=classes * classes)
            if stop():
                return None
    finally:
        model.train(was_training)
    confusion = world.sum(confusion).view(classes, classes).cpu()
    return Evaluation(float(world.sum(loss)) / int(confusion.sum()), confusion)

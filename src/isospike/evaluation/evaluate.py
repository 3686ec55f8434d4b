"""A pass over a test split."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from isospike.data import Augment, Dataset, Loader, to_device
from isospike.errors import RunFailed
from isospike.evaluation.confused import Confused, WrongImage, confused_as_dict, merge
from isospike.finite import first_bad_place
from isospike.processes import World


@dataclass(frozen=True)
class Evaluation:
    """The results of a test on one split.

    Args:
        loss: Of the mean logits.
        confusion: Images by ``[true class, predicted class]``.
        correct_after: Images put into their class by the mean logits of the first t steps, for t from 1 to T.
        confused: Images put into a wrong class with the highest probability.
    """

    loss: float
    confusion: Tensor
    correct_after: tuple[int, ...]
    confused: tuple[WrongImage, ...]

    @property
    def count(self) -> int:
        """Images seen."""
        return int(self.confusion.sum())

    @property
    def accuracy(self) -> float:
        """Share of images put into their class."""
        return int(self.confusion.trace()) / self.count

    def as_dict(self, dataset: Dataset, *, checkpoint: str) -> dict[str, Any]:
        """Return plain values for ``analysis/test.json``: what was tested, on what, and what came out."""
        return {
            "data": dataset.name,
            "note": dataset.note,
            "checkpoint": checkpoint,
            "images": self.count,
            "size": dataset.tested_at,
            "loss": self.loss,
            "accuracy": self.accuracy,
            "accuracy_after": [correct / self.count for correct in self.correct_after],
            "classes": list(dataset.classes),
            "confusion": self.confusion.tolist(),
        }


def as_results(
    tested: Evaluation, dataset: Dataset, *, checkpoint: str, inference: Mapping[str, Any] | None = None
) -> dict[str, dict[str, Any]]:
    """Return what goes to ``analysis/``: the test, and the images put into a wrong class.

    ``inference`` says how a compiled network ran, where it was one.
    """
    result = tested.as_dict(dataset, checkpoint=checkpoint)
    if inference is not None:
        result["inference"] = inference
        if "early_exit" in inference:
            del result["accuracy_after"]  # samples left at steps of their own
    return {"test": result, "confused": confused_as_dict(tested.confused, dataset, checkpoint=checkpoint)}


@torch.no_grad()
def evaluate(
    model: nn.Module, loader: Loader, augment: Augment, world: World, *, stop: Callable[[], bool] = lambda: False
) -> Evaluation | None:
    """Measure the cross-entropy of the mean logits and what is right and wrong, in float32, over all processes.

    The accuracy after fewer steps costs nothing more: in eval mode no step knows of those behind it.

    Args:
        model: The network; its mode is put back afterwards.
        loader: Of the test split.
        augment: Normalises the images.
        world: The processes that share the work.
        stop: Asked after every batch, by all processes alike; True ends the pass.

    Returns:
        The result, or None where it was stopped.

    Raises:
        RunFailed: the loss is not finite; the text says where the finite numbers end.
    """
    was_training = model.training
    model.eval()
    loss = torch.zeros((), dtype=torch.float64, device=world.device)
    classes = augment.num_classes
    confusion = torch.zeros(classes * classes, dtype=torch.int64, device=world.device)
    correct: list[Tensor] = []
    confused = Confused()
    try:
        for batch in loader.epoch(0):
            if len(batch.labels):  # the last batch may leave nothing for this process
                labels = to_device(batch.labels, world.device)
                images = augment.test(to_device(batch.images, world.device))
                per_step = model(images, per_step=True)
                logits = per_step.mean(0)
                loss += F.cross_entropy(logits, labels, reduction="sum")
                confusion += torch.bincount(labels * classes + logits.argmax(-1), minlength=classes * classes)
                correct.append(_correct_after(per_step, labels))
                if not loss.isfinite():
                    where = first_bad_place(model, partial(model, images, per_step=True))
                    raise RunFailed(f"the loss of the test is not finite: {where}")
                confused.add(batch.images, batch.labels, logits.cpu(), batch.indices)
            if stop():
                return None
    finally:
        model.train(was_training)
    confusion = world.sum(confusion).view(classes, classes).cpu()
    parts = world.gather((torch.stack(correct).sum(0).tolist() if correct else [], confused.images()))
    after = tuple(map(sum, zip(*(hits for hits, _ in parts if hits), strict=True)))
    wrong = merge([part for _, part in parts])
    return Evaluation(float(world.sum(loss)) / int(confusion.sum()), confusion, after, wrong)


def _correct_after(per_step: Tensor, labels: Tensor) -> Tensor:
    """Count the hits of the mean of the first t logits, int64 ``[T]``; the last is that of the result."""
    sums = torch.cat([per_step[:-1].cumsum(0), per_step.mean(0, keepdim=True)])
    return (sums.argmax(-1) == labels).sum(-1)

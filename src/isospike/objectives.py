"""Objectives: losses on the logits of every time step."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from isospike.data import ClassWeights
from isospike.spec import Kinds, Share, Spec

Objective = Callable[[Tensor, Tensor], Tensor]  # from logits [T, B, K] and targets to a mean loss


class ObjectiveSpec(Spec, ABC):
    """The ``objective`` of a run.

    ``class_weights`` multiply what an image of a class adds to the loss of training, scaled so that they are 1 on
    average over the training images: the learning rate keeps its meaning. Tests are not weighted.
    """

    kind: str
    label_smoothing: Share = 0.0
    class_weights: ClassWeights = None

    @abstractmethod
    def loss(self, logits: Tensor, targets: Tensor, class_weights: Tensor | None = None) -> Tensor:
        """Compute the mean loss.

        Args:
            logits: ``[T, B, K]``.
            targets: Labels ``[B]``, or shares ``[B, K]``.
            class_weights: ``[K]``, scaled as said above.
        """


OBJECTIVES: Kinds[ObjectiveSpec] = Kinds("objective")


@OBJECTIVES.add
class CrossEntropySpec(ObjectiveSpec):
    """Cross-entropy of the mean logits."""

    kind: Literal["cross_entropy"]

    def loss(self, logits: Tensor, targets: Tensor, class_weights: Tensor | None = None) -> Tensor:
        """Compute the cross-entropy of the mean over time."""
        return cross_entropy(logits.mean(0), targets, label_smoothing=self.label_smoothing, weights=class_weights)


@OBJECTIVES.add
class TETSpec(ObjectiveSpec):
    """Mean over time of the cross-entropies, plus ``weight`` times the squared distance of logits to ``target``.

    Source: Deng et al. 2022 (TET), arXiv:2202.11946, eq. 10-12; ``weight`` is its lambda, ``target`` its threshold phi.
    """

    kind: Literal["tet"]
    weight: Share = 0.05
    target: float = 1.0

    def loss(self, logits: Tensor, targets: Tensor, class_weights: Tensor | None = None) -> Tensor:
        """Compute ``(1 - weight) * mean_t CE(logits[t], targets) + weight * mean (logits - target)^2``."""
        smoothing = self.label_smoothing
        steps = [cross_entropy(step, targets, label_smoothing=smoothing, weights=class_weights) for step in logits]
        mean = sum(steps[1:], start=steps[0]) / len(steps)
        return (1 - self.weight) * mean + self.weight * (logits - self.target).square().mean()


def cross_entropy(logits: Tensor, targets: Tensor, *, label_smoothing: float, weights: Tensor | None = None) -> Tensor:
    """Compute ``- mean_b sum_k weights[k] * shares[b, k] * log softmax(logits)[b, k]``, the shares smoothed.

    The mean is over the images, not over their weights as that of PyTorch's is for labels: a batch then has the same
    gradient whole, in parts, and shared by processes.
    """
    if weights is None:
        return F.cross_entropy(logits, targets, label_smoothing=label_smoothing)
    total = F.cross_entropy(logits, targets, weights, label_smoothing=label_smoothing, reduction="sum")
    return total / len(logits)

"""Losses on the logits of every step."""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

from isospike.config import CrossEntropySpec, ObjectiveSpec

Objective = Callable[[Tensor, Tensor], Tensor]


def build_objective(spec: ObjectiveSpec, weights: Tensor | None = None) -> Objective:
    """``objective(logits [T, B, K], targets)`` to a mean loss; targets are labels ``[B]`` or shares ``[B, K]``.

    ``weights`` ``[K]`` are those of the classes.
    """
    smoothing = spec.label_smoothing
    if isinstance(spec, CrossEntropySpec):
        return lambda logits, targets: cross_entropy(
            logits.mean(0), targets, label_smoothing=smoothing, weights=weights
        )
    return lambda logits, targets: tet_loss(
        logits, targets, label_smoothing=smoothing, weight=spec.weight, target=spec.target, class_weights=weights
    )


def cross_entropy(logits: Tensor, targets: Tensor, *, label_smoothing: float, weights: Tensor | None = None) -> Tensor:
    """``- mean_b sum_k weights[k] * shares[b, k] * log softmax(logits)[b, k]``, the shares smoothed.

    The mean is over the images, not over their weights as that of PyTorch's is for labels: a batch then has the same
    gradient whole, in parts, and shared by processes.
    """
    if weights is None:
        return F.cross_entropy(logits, targets, label_smoothing=label_smoothing)
    total = F.cross_entropy(logits, targets, weights, label_smoothing=label_smoothing, reduction="sum")
    return total / len(logits)


def tet_loss(
    logits: Tensor,
    targets: Tensor,
    *,
    label_smoothing: float,
    weight: float,
    target: float,
    class_weights: Tensor | None = None,
) -> Tensor:
    """``(1 - weight) * mean_t CE(logits[t], targets) + weight * mean (logits - target)^2``.

    Source: Deng et al. 2022 (TET), arXiv:2202.11946, eq. 10-12; ``target`` is its threshold phi.
    """
    steps = [cross_entropy(step, targets, label_smoothing=label_smoothing, weights=class_weights) for step in logits]
    mean = sum(steps[1:], start=steps[0]) / len(steps)
    return (1 - weight) * mean + weight * (logits - target).square().mean()

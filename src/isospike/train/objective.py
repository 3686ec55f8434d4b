"""Losses on the logits of every step."""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

from isospike.config import CrossEntropySpec, ObjectiveSpec

Objective = Callable[[Tensor, Tensor], Tensor]


def build_objective(spec: ObjectiveSpec) -> Objective:
    """``objective(logits [T, B, K], targets)`` to a mean loss; targets are labels ``[B]`` or shares ``[B, K]``."""
    if isinstance(spec, CrossEntropySpec):
        smoothing = spec.label_smoothing
        return lambda logits, targets: F.cross_entropy(logits.mean(0), targets, label_smoothing=smoothing)
    return lambda logits, targets: tet_loss(
        logits, targets, label_smoothing=spec.label_smoothing, weight=spec.weight, target=spec.target
    )


def tet_loss(logits: Tensor, targets: Tensor, *, label_smoothing: float, weight: float, target: float) -> Tensor:
    """``(1 - weight) * mean_t CE(logits[t], targets) + weight * mean (logits - target)^2``.

    Source: Deng et al. 2022 (TET), arXiv:2202.11946, eq. 10-12; ``target`` is its threshold phi.
    """
    steps = [F.cross_entropy(step, targets, label_smoothing=label_smoothing) for step in logits]
    cross_entropy = sum(steps[1:], start=steps[0]) / len(steps)
    return (1 - weight) * cross_entropy + weight * (logits - target).square().mean()

"""The neurons of a fused pass over currents, and what such passes give."""

from typing import NamedTuple

from torch import Tensor

from isospike.ops.rule import Rule


class Firing(NamedTuple):
    """The recurrence of one population of neurons: arguments of ``leaky_fire``."""

    decay: float | Tensor
    gain: float | Tensor
    rule: Rule


class NormFired(NamedTuple):
    """Summed current and spikes ``[T, B, C, H, W]``, None where not asked for; mean and biased variance ``[C]``."""

    u: Tensor | None
    s: Tensor | None
    mean: Tensor
    var: Tensor


class NormFireConvolved(NamedTuple):
    """Summed current, None where not asked for; the convolution ``[T, B, O, H', W']``; mean and biased variance."""

    u: Tensor | None
    y: Tensor
    mean: Tensor
    var: Tensor

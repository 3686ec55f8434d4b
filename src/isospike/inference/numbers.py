"""Trained norms and neurons as numbers: the scales, shifts and decays that inference runs with."""

from functools import singledispatch

import torch
from torch import Tensor, nn

from isospike.graph import Complement
from isospike.layers import BatchNorm, PerStepNorm
from isospike.neurons import Neuron, SpikingNeuron
from isospike.ops import Firing
from isospike.ops.pointwise import Rectifier, ScaleShift
from isospike.residual import Scale, Weigh


@singledispatch
def numbers_of(affine: object) -> ScaleShift:
    """Return ``scale`` and ``shift`` of an affine of a program, one row, or one for every step."""
    raise TypeError(f"no program has an affine that is a {type(affine).__name__}")


@numbers_of.register
def _number(affine: float) -> ScaleShift:
    return ScaleShift(torch.tensor([[affine]]), torch.zeros(1, 1))


@numbers_of.register
def _complement(affine: Complement) -> ScaleShift:
    return ScaleShift(torch.tensor([[-1.0]]), torch.tensor([[1.0]]))


@numbers_of.register(Scale)
@numbers_of.register(Weigh)
def _factor(affine: Scale | Weigh) -> ScaleShift:
    return numbers_of(_float(affine.factor))


@numbers_of.register
@torch.no_grad()
def _norm(norm: BatchNorm) -> ScaleShift:
    """Fold the running statistics into two rows; the square root is taken in float64."""
    return ScaleShift(*(row.to(norm.weight.dtype)[None] for row in norm.running_affine()))


@numbers_of.register
def _by_channel(conv: nn.Conv2d) -> ScaleShift:
    scale = conv.weight.detach().flatten()[None]
    return ScaleShift(scale, torch.zeros_like(scale) if conv.bias is None else conv.bias.detach()[None])


@numbers_of.register
def _norms(norms: PerStepNorm) -> ScaleShift:
    return ScaleShift(*(torch.cat(rows) for rows in zip(*map(numbers_of, norms), strict=True)))


def firing_of(neuron: Neuron) -> Firing | Rectifier:
    """Return the numbers of a neuron that is a row of the recurrence, or of the rectifier."""
    if not isinstance(neuron, SpikingNeuron):
        return "rectifier"
    decay, gain = map(_float, neuron.coefficients())
    return Firing(decay, gain, neuron.rule)


def _float(value: float | Tensor) -> float:
    return float(value.detach() if isinstance(value, Tensor) else value)

"""Affines, a sum, neurons and a join as one operation: what stands between two convolutions at inference.

Here is what it means, in eager PyTorch; ``cpu/pointwise.py`` does the same in one pass over memory.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from isospike.ops.firing import Firing
from isospike.ops.leaky_fire import leaky_fire

JoinName = Literal["add", "and", "iand"]
Rectifier = Literal["rectifier"]


class Span(NamedTuple):
    """The steps of one call: how many, of how many samples, and which of them is the first, counted from 0.

    ``stateful``: neurons take up the potentials that they are given and hand out those behind the last step.
    """

    T: int
    B: int
    start: int = 0
    stateful: bool = False


class ScaleShift(NamedTuple):
    """``scale * x + shift`` per channel: both ``[1, C]``, or ``[steps, C]`` where every time step has its own."""

    scale: Tensor
    shift: Tensor

    @property
    def knows_steps(self) -> bool:
        """Whether it differs from step to step."""
        return len(self.scale) > 1

    def __call__(self, x: Tensor, span: Span) -> Tensor:
        """``x [T or 1, B, C, H, W]`` to the same shape, or to T steps where it knows them."""
        rows = slice(span.start, span.start + span.T) if self.knows_steps else slice(1)
        scale, shift = (values[rows, None, :, None, None] for values in self)
        return scale * x + shift


@dataclass(frozen=True, eq=False)
class Pointwise:
    """``sum = x + y;  s = fire(sum);  out = join(s, z)``, with a scale and a shift behind x, y and the sum.

    Args:
        x: What scales and shifts the first term.
        y: Likewise, the second.
        affine: Likewise, the sum, before the neurons.
        firing: The neurons; "rectifier" for those of an ANN.
        join: How ``out`` comes from s and z: their sum, ``s * z``, or ``(1 - s) * z``.
        keeps_sum: Whether the sum, before its affine, is handed out as well.
        integer: Whether ``out`` is uint8: spikes, or counts of them.
    """

    x: ScaleShift | None = None
    y: ScaleShift | None = None
    affine: ScaleShift | None = None
    firing: Firing | Rectifier | None = None
    join: JoinName | None = None
    keeps_sum: bool = False
    integer: bool = False

    @property
    def knows_steps(self) -> bool:
        """Whether an affine differs from step to step."""
        return any(affine is not None and affine.knows_steps for affine in (self.x, self.y, self.affine))


class Result(NamedTuple):
    """``out``; the sum where it is kept; the potentials behind the last step where they were asked for."""

    out: Tensor
    sum: Tensor | None
    v: Tensor | None


def eager_pass(
    spec: Pointwise, span: Span, x: Tensor, y: Tensor | None = None, z: Tensor | None = None, v: Tensor | None = None
) -> Result:
    """The operation on maps ``[T*B, C, H, W]``, or ``[B, C, H, W]`` where a map is the same at every step.

    Args:
        spec: The operation.
        span: The steps.
        x: First term, float or uint8.
        y: Second term.
        z: What the neurons' output is joined with.
        v: Potentials before the first step ``[B, ...]``, with levels in front where a rule has several; None: rest.
    """
    float_dtype = x.dtype if y is None or x.dtype.is_floating_point else y.dtype
    if not float_dtype.is_floating_point:
        float_dtype = torch.float32

    def term(map_: Tensor, affine: ScaleShift | None = None) -> Tensor:
        steps = map_.to(float_dtype).unflatten(0, (-1, span.B))
        return steps if affine is None else affine(steps, span)

    total = term(x, spec.x) if y is None else term(x, spec.x) + term(y, spec.y)
    out = total if spec.affine is None else spec.affine(total, span)
    after = None
    if spec.firing is not None:
        out, after = _fire(spec.firing, out, span, v)
    if z is not None:
        out = _join(spec.join, out, term(z))
    out = out.flatten(0, 1)
    return Result(
        out.to(torch.uint8) if spec.integer else out,
        total.flatten(0, 1) if spec.keeps_sum else None,
        after if span.stateful else None,
    )


def _fire(firing: Firing | Rectifier, x: Tensor, span: Span, v: Tensor | None) -> tuple[Tensor, Tensor | None]:
    if not isinstance(firing, Firing):
        return x.relu(), None
    return leaky_fire(x.expand(span.T, *x.shape[1:]), v, **firing._asdict())


def _join(name: JoinName | None, s: Tensor, z: Tensor) -> Tensor:
    if name == "add":
        return s + z
    return (s if name == "and" else 1 - s) * z

"""The forward pass in training: a network's program, rewritten and bound to the autograd functions of ``ops/``.

What stands between two convolutions is one pass where a backend can. It is the network's own layers, one by one,
wherever there is nothing to be one pass: with statistics that processes share, under a hook, on the reference. Where a
backend could and does not (its dtype, its surrogates), ``ops/backend.py`` says why, or refuses if it was asked for by
name.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import NamedTuple, TypeGuard

import torch
from torch import Tensor, nn

from isospike.graph import (
    TRAINING,
    Affine,
    Between,
    Conv,
    Operation,
    Program,
    Value,
    apply_affine,
    join,
    natural_segments,
    rewrite,
    run_eager,
    uses,
    writes,
)
from isospike.layers import MEMORY, BatchNorm, Steps, is_exactly, is_plain_conv, recomputed
from isospike.layers.statistics import Statistics
from isospike.neurons import Neuron, is_recurrence
from isospike.ops import Firing, norm_fire, norm_fire_conv, packed_conv
from isospike.ops.firing import NormFireConvolved

Maps = dict[Value, Tensor]
Run = Callable[[Maps, Steps], None]


class Fused(NamedTuple):
    """Current and spikes ``[T, B, C, H, W]``; None what was not asked for."""

    u: Tensor | None
    s: Tensor | None


@dataclass(frozen=True)
class Cut:
    """The operations between two borders of activation checkpointing.

    Args:
        operations: As functions on the maps, each with those maps that nothing here reads after it.
        reads: The maps that come from before.
        leaves: The maps that are read behind it.
        recomputes: Whether the backward pass runs it again.
    """

    operations: tuple[tuple[Run, tuple[Value, ...]], ...]
    reads: tuple[Value, ...]
    leaves: tuple[Value, ...]
    recomputes: bool

    def run(self, steps: Steps, *inputs: Tensor) -> tuple[Tensor, ...]:
        """From the maps that it reads to those that it leaves."""
        maps = dict(zip(self.reads, inputs, strict=True))
        for execute, done in self.operations:
            execute(maps, steps)
            for value in done:
                del maps[value]
        return tuple(maps[value] for value in self.leaves)


class TrainingPass:
    """A program that runs in training: from rest, and all steps at once.

    Args:
        program: The program of a network in training mode.
        memory: What is kept for the backward pass; a name of ``MEMORY``.
    """

    def __init__(self, program: Program, memory: str) -> None:
        self.program = program
        self.cuts = list(_cuts(program, memory))

    def __call__(self, x: Tensor, steps: Steps) -> list[Tensor]:
        """The results ``[T or 1, B, ...]`` for inputs ``[T or 1, B, C, H, W]``."""
        maps = {self.program.input: x}
        for cut in self.cuts:
            inputs = [maps[value] for value in cut.reads]
            again = cut.recomputes and torch.is_grad_enabled()
            run = partial(cut.run, steps)
            maps.update(zip(cut.leaves, recomputed(run, *inputs) if again else run(*inputs), strict=True))
        return [maps[value] for value in self.program.results]


def _cuts(program: Program, memory: str) -> Iterator[Cut]:
    """Cut a program where activation checkpointing begins and ends; no rule sees past a cut."""
    parts = list(_parts(program, memory))
    for index, (operations, recomputes) in enumerate(parts):
        written = dict.fromkeys(value for op in operations for value in writes(op))
        reads = dict.fromkeys(value for op in operations for value in op.reads() if value not in written)
        later = chain.from_iterable(part for part, _ in parts[index + 1 :])
        read_later = {value for op in later for value in op.reads()} | {*program.results}
        leaves = tuple(value for value in written if value in read_later)
        yield Cut(tuple(_bind(operations, leaves)), tuple(reads), leaves, recomputes)


def _parts(program: Program, memory: str) -> Iterator[tuple[Sequence[Operation], bool]]:
    """Yield operations in a row, and whether the backward pass recomputes them."""
    done = 0
    for segments in program.segments or (natural_segments(program),):
        together = MEMORY[memory](len(segments)) if segments else 0
        for first in range(0, len(segments), together) if together else ():
            group = segments[first : first + together]
            start, stop = group[0].start, group[-1].stop
            if done < start:
                yield program.operations[done:start], False
            if start < stop:
                yield program.operations[start:stop], True
            done = stop
    if done < len(program.operations):
        yield program.operations[done:], False


def _bind(operations: Sequence[Operation], leaves: Collection[Value]) -> Iterator[tuple[Run, tuple[Value, ...]]]:
    """Bind the rewritten operations to functions, each with the maps that nothing reads after it."""
    operations = rewrite(operations, leaves, TRAINING)
    left = uses(operations, leaves)
    at = 0
    while at < len(operations):
        op, together = operations[at], operations[at : at + 2]
        run: Callable[..., None] = _conv if isinstance(op, Conv) else _between if isinstance(op, Between) else run_eager
        here: list[Value] = []  # maps that no other operation sees
        if _is_for_one_conv(together, left):
            run, here = _between_and_conv, [op.out]
        else:
            together = [op]
        at += len(together)
        for one in together:
            left.subtract(one.reads())
        seen = dict.fromkeys(value for one in together for value in (*one.reads(), *writes(one)))
        yield partial(run, *together), tuple(value for value in seen if not left[value] and value not in here)


def _is_for_one_conv(together: Sequence[Operation], left: Counter[Value]) -> bool:
    """Whether the second of two operations is a convolution, which alone reads the spikes of the first.

    Args:
        together: Operations in a row.
        left: How often each map is still read.
    """
    if len(together) < 2:
        return False
    first, conv = together
    return (
        isinstance(first, Between)
        and isinstance(conv, Conv)
        and conv.x == first.out
        and left[first.out] == 1
        and first.neuron is not None
        and first.z is None
        and is_plain_conv(conv.module)
    )


def _conv(op: Conv, maps: Maps, steps: Steps) -> None:
    """A convolution whose input is kept in few bits where a backend can."""
    x, packed = maps[op.x], None
    if is_plain_conv(op.module):
        packed = packed_conv(op.module, x.flatten(0, 1))
    maps[op.out] = steps.through(op.module, x) if packed is None else packed.unflatten(0, x.shape[:2])


class Summands(NamedTuple):
    """What the current of an operation is the sum of.

    Attributes:
        x: ``[T or 1, B, C, H, W]``.
        x_affine: Behind it.
        skip: The same, as it is.
        keeps: Whether the sum is wanted, and not yet there.
    """

    x: Tensor
    x_affine: Affine | None
    skip: Tensor | None
    keeps: bool


def _summands(op: Between, maps: Maps, steps: Steps) -> Summands:
    """Return them so that a norm, if there is one, is the affine of x."""
    x, x_affine, skip = maps[op.x], op.x_affine, None
    if op.y is not None:
        skip, skip_affine = maps[op.y], op.y_affine
        if isinstance(skip_affine, BatchNorm) and not isinstance(x_affine, BatchNorm):
            x, x_affine, skip, skip_affine = skip, skip_affine, x, x_affine
        skip = _apply(skip_affine, skip, steps)
    if op.affine is not None and skip is not None:
        x, x_affine, skip = _apply(x_affine, x, steps) + skip, op.affine, None
        if op.total is not None:
            maps[op.total] = x
    return Summands(x, x_affine, skip, op.total is not None and op.total not in maps)


def _between(op: Between, maps: Maps, steps: Steps) -> None:
    """Norm, sum and neuron in one pass where they can be, what is left of the operation one by one."""
    _fire(op, _summands(op, maps, steps), maps, steps)


def _between_and_conv(op: Between, conv: Conv, maps: Maps, steps: Steps) -> None:
    """The same with the convolution that alone reads its spikes, in one pass where a backend has it."""
    summands = _summands(op, maps, steps)
    fused = fuse_with(conv.layer, summands, op.neuron, steps)
    if fused is None:
        _fire(op, summands, maps, steps)
        _conv(conv, maps, steps)
        del maps[op.out]
        return
    if summands.keeps and op.total is not None and fused.u is not None:
        maps[op.total] = fused.u
    maps[conv.out] = fused.y


def _fire(op: Between, summands: Summands, maps: Maps, steps: Steps) -> None:
    x, x_affine, skip, keeps = summands
    z = None if op.z is None else maps[op.z]
    added = z if op.join == "add" and op.neuron is not None else None
    fused = fuse(x_affine, op.neuron, x, steps, skip=skip, added=added, keep=keeps)
    if fused is None:
        u = _apply(x_affine, x, steps)
        u = u if skip is None else u + skip
        fused, added = Fused(u, None if op.neuron is None else steps.fire(op.neuron, u)), None
    if keeps and fused.u is not None and op.total is not None:
        maps[op.total] = fused.u
    out = fused.u if op.neuron is None else fused.s
    assert out is not None
    maps[op.out] = out if z is None or added is not None else join(op.join, out, z)


def _apply(affine: Affine | None, x: Tensor, steps: Steps) -> Tensor:
    """``x [T or 1, B, C, H, W]`` through one affine."""
    fused = fuse(affine, None, x, steps)
    return apply_affine(affine, x, steps) if fused is None or fused.u is None else fused.u


def fuse(
    norm: object,
    neuron: Neuron | None,
    x: Tensor,
    steps: Steps,
    *,
    skip: Tensor | None = None,
    added: Tensor | None = None,
    keep: bool = False,
) -> Fused | None:
    """``u = norm(x) + skip`` and ``s = neuron(u) + added`` in one pass; None where they must run one by one.

    Args:
        norm: Only a ``BatchNorm`` that takes its statistics from ``x`` can, and none of a class of its own.
        neuron: Only a ``SpikingNeuron`` can, whose class has no other ``forward``; None: nothing fires.
        x: ``[T, B, C, H, W]``; without neuron and skip also ``[1, ...]``.
        steps: The time that ``x`` covers.
        skip: ``[T or 1, B, C, H, W]``.
        added: ``[T or 1, B, C, H, W]``.
        keep: Whether u is wanted besides the spikes.
    """
    if not _takes_statistics(norm, x):
        return None
    firing = None
    if neuron is not None:
        if not is_recurrence(neuron):
            return None
        firing = Firing(*neuron.coefficients(), neuron.rule)
    if len(x) != steps.T and (firing is not None or skip is not None):
        return None  # a stream that is still the same at every step
    done = norm_fire(x, *_affine(norm), skip=skip, firing=firing, added=added, keep=keep)
    if done is None:
        return None
    _record(norm, x, done.mean, done.var)
    return Fused(done.u, done.s)


def fuse_with(conv: nn.Conv2d, summands: Summands, neuron: Neuron | None, steps: Steps) -> NormFireConvolved | None:
    """``conv(neuron(norm(x) + skip))`` in one pass; None where they must run one by one."""
    x, norm, skip, keeps = summands
    if not _takes_statistics(norm, x) or neuron is None or not is_recurrence(neuron) or len(x) != steps.T:
        return None
    firing = Firing(*neuron.coefficients(), neuron.rule)
    done = norm_fire_conv(conv, x, *_affine(norm), skip=skip, firing=firing, keep=keeps)
    if done is not None:
        _record(norm, x, done.mean, done.var)
    return done


def _takes_statistics(norm: object, x: Tensor) -> TypeGuard[BatchNorm]:
    """Whether it is a norm whose statistics are those of ``x``, and none of a class of its own."""
    return isinstance(norm, BatchNorm) and is_exactly(norm, BatchNorm) and norm.takes_statistics_of(x)


def _affine(norm: BatchNorm) -> tuple[Tensor, Tensor, float, float]:
    return norm.scaled_weight(), norm.bias, norm.eps, norm.root_eps


def _record(norm: BatchNorm, x: Tensor, mean: Tensor, var: Tensor) -> None:
    norm.record(Statistics.from_biased(x.numel() // norm.num_features, mean, var))

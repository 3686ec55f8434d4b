"""The forward pass in training: a network's program, rewritten and bound to the autograd functions of ``ops/``.

What stands between two convolutions is one pass where a backend can. It is the network's own layers, one by one,
wherever there is nothing to be one pass: with statistics that processes share, under a hook, on the reference. Where a
backend could and does not (its dtype, its surrogates), ``ops/backend.py`` says why, or refuses if it was asked for by
name.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import NamedTuple

import torch
from torch import Tensor

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
from isospike.ops import Firing, norm_fire, packed_conv

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
    for op in operations:
        left.subtract(op.reads())
        done = tuple(value for value in dict.fromkeys((*op.reads(), *writes(op))) if not left[value])
        run = _conv if isinstance(op, Conv) else _between if isinstance(op, Between) else run_eager
        yield partial(run, op), done  # type: ignore[arg-type]


def _conv(op: Conv, maps: Maps, steps: Steps) -> None:
    """A convolution whose input is kept in few bits where a backend can."""
    x, packed = maps[op.x], None
    if is_plain_conv(op.module):
        packed = packed_conv(op.module, x.flatten(0, 1))
    maps[op.out] = steps.through(op.module, x) if packed is None else packed.unflatten(0, x.shape[:2])


def _between(op: Between, maps: Maps, steps: Steps) -> None:
    """Norm, sum and neuron in one pass where they can be, what is left of the operation one by one."""
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
    z = None if op.z is None else maps[op.z]
    keeps = op.total is not None and op.total not in maps
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
    if not isinstance(norm, BatchNorm) or not is_exactly(norm, BatchNorm) or not norm.takes_statistics_of(x):
        return None
    firing = None
    if neuron is not None:
        if not is_recurrence(neuron):
            return None
        firing = Firing(*neuron.coefficients(), neuron.rule)
    if len(x) != steps.T and (firing is not None or skip is not None):
        return None  # a stream that is still the same at every step
    affine = norm.scaled_weight(), norm.bias, norm.eps, norm.root_eps
    done = norm_fire(x, *affine, skip=skip, firing=firing, added=added, keep=keep)
    if done is None:
        return None
    count = x.numel() // norm.num_features
    norm.record(Statistics.from_biased(count, done.mean, done.var))
    return Fused(done.u, done.s)

"""Layer by layer through an ANN whose earlier layers already spike: all steps of a layer, then the next.

So what a layer gets from spiking layers before it is known when something of it is chosen, and nothing runs twice.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from isospike.conversion.activations import (
    Batches,
    Levels,
    by_row,
    check_levels,
    fill_silent,
    names_of,
    rectifier_of,
    run_through,
)
from isospike.conversion.lowering import MakeNeuron
from isospike.errors import ConfigError
from isospike.graph import Value, run_eager, uses
from isospike.layers import Steps
from isospike.models import ProgramNet
from isospike.neurons import Neuron

BATCH = 32  # images of a step of the search
CORRECTIONS = 4  # of the biases of a layer
MEMORY = 1 << 27  # bytes of the largest map over all steps

Choose = Callable[[Value, Tensor], Tensor]


def over_time(x: Tensor, row: Tensor) -> Tensor:
    """Return a number, or one for each channel, beside a map ``[T, B, C, ...]``."""
    return row.to(x.dtype).view(-1, *[1] * (x.dim() - 3))


def fire(neuron: Neuron, current: Tensor, threshold: Tensor, T: int) -> Tensor:
    """Return what neurons put out ``[T, B, ...]`` in the ANN's units, for a current ``[T or 1, B, ...]`` in them."""
    theta = over_time(current, threshold)
    spikes, _ = neuron((current / theta).expand(T, *current.shape[1:]))
    return spikes * theta


@torch.no_grad()
def walk(ann: ProgramNet, images: Tensor, T: int, choose: Choose) -> None:
    """Run T steps of every layer after the other; ``choose`` says what stands in place of every rectifier.

    Args:
        ann: In eval mode.
        images: ``[B, C, H, W]``.
        T: Time steps.
        choose: From the output of a rectifier and the current that it gets to what it shall put out, and no more.
    """
    program, steps = ann.program, Steps(T)
    maps, left = {program.input: images.unsqueeze(0)}, uses(program.operations, program.results)
    for op in program.operations:
        if rectifier_of(op) is None:
            run_eager(op, maps, steps)
        else:
            maps[op.out] = choose(op.out, maps[op.x])
        left.subtract(op.reads())
        for value in {*op.reads(), op.out}:
            if not left[value]:
                maps.pop(value, None)


def affordable(ann: ProgramNet, batches: Batches, T: int) -> Tensor:
    """Return as many calibration images, from the first on, as T steps of their largest map have room for."""
    images = batches[0]
    largest = max(values[0].numel() for _, values in run_through(ann.program, images[:1]))
    return torch.cat(list(batches))[: max(1, MEMORY // (T * largest * images.element_size()))]


def balanced_thresholds(ann: ProgramNet, batches: Batches, T: int, neuron: MakeNeuron, levels: int) -> Levels:
    """Return the largest current that each layer gets at any step while all layers before it spike.

    Args:
        ann: In eval mode.
        batches: Calibration images; as many are taken as T steps have room for.
        T: Time steps.
        neuron: Makes neurons of threshold 1.
        levels: What a neuron puts out at most; its threshold is that part of the largest current.

    Source: Sengupta et al. 2019 (Spike-Norm), arXiv:1802.02627, with the image as a constant current.
    """
    found: dict[Value, Tensor] = {}

    def largest_current(value: Value, current: Tensor) -> Tensor:
        found[value] = current.max().double().clamp(min=0).view(1) / levels
        check_levels({value: found[value]}, names_of(ann))
        return fire(neuron(), current, found[value], T)

    walk(ann, affordable(ann, batches, T), T, largest_current)
    return found


def local_thresholds(ann: ProgramNet, batches: Batches, steps: int) -> Levels:
    """Let thresholds of channels ``[C]`` rise from 0 as the clipping error of their layer falls.

    A step goes down the gradient of ``E[(x - min(x, threshold))^2]``, which is ``-2 E[max(x - threshold, 0)]``, on 32
    images whose earlier layers are clipped already, and never beyond the largest activation. So thresholds stay low
    where large activations are rare.

    Args:
        ann: In eval mode.
        batches: Calibration images, taken in turn and again from the first on.
        steps: At least 1.

    Source: Bu et al. 2024 (local threshold balancing), arXiv:2409.03368.
    """
    if steps < 1:
        raise ConfigError(f"thresholds are searched in at least 1 step, got {steps}")
    found: dict[Value, Tensor] = {}

    def descend(value: Value, current: Tensor) -> Tensor:
        x = current.relu()
        rows = by_row(x[0], True)
        threshold = found.get(value, rows.new_zeros(len(rows), dtype=torch.float64))
        overflow = (rows - threshold.to(rows.dtype)[:, None]).relu().mean(1)
        highest = torch.maximum(threshold, rows.amax(1))
        found[value] = threshold = torch.minimum(threshold + 2 * overflow, highest)
        return torch.minimum(x, over_time(x, threshold))

    parts = torch.cat(list(batches)).split(BATCH)
    for step in range(steps):
        walk(ann, parts[step % len(parts)], 1, descend)
    check_levels(found, names_of(ann))
    return {value: fill_silent(level) for value, level in found.items()}


def calibrated_shifts(
    ann: ProgramNet, batches: Batches, T: int, neuron: MakeNeuron, thresholds: Levels
) -> Mapping[Value, Tensor]:
    """Return what gives every channel ``[C]``, added to its current, the ANN's mean activation as mean rate.

    Layer by layer: a layer is corrected when all before it are. It is corrected several times, as neurons that stay
    silent or fire at every step answer a change of their current by less than the change.

    Args:
        ann: In eval mode.
        batches: Calibration images; as many are taken as T steps have room for.
        T: Time steps.
        neuron: Makes neurons of threshold 1.
        thresholds: Of every layer.

    Source: Li et al. 2021, arXiv:2106.06984, its light pipeline, which corrects once.
    """
    images = affordable(ann, batches, T)
    means = {value: by_row(x, True).mean(1) for value, x in run_through(ann.program, images) if value in thresholds}
    shifts: dict[Value, Tensor] = {}

    def correct(value: Value, current: Tensor) -> Tensor:
        def corrected() -> Tensor:
            return fire(neuron(), current + over_time(current, shifts[value]), thresholds[value], T)

        shifts[value] = torch.zeros_like(means[value], dtype=torch.float64)
        for _ in range(CORRECTIONS):
            rates = by_row(corrected().mean(0), True).mean(1)
            shifts[value] = shifts[value] + (means[value] - rates)
        return corrected()

    walk(ann, images, T, correct)
    return shifts

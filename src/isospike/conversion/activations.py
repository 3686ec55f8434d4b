"""What the rectifiers of an ANN put out on calibration images, layer by layer, in memory that images do not add to."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from isospike.errors import ConfigError
from isospike.graph import Between, Call, Operation, Program, Value, run_eager, uses
from isospike.layers import Steps
from isospike.models import ProgramNet
from isospike.neurons import QCFS, ReLU

Batches = Sequence[Tensor]
"""Calibration images ``[N, C, H, W]``, normalised as in training, in batches."""

Levels = dict[Value, Tensor]
"""A number by rectifier, named by the map that it puts out: ``[1]``, or ``[C]`` where channels differ."""


def rectifier_of(op: Operation) -> nn.Module | None:
    """Return the rectifier that an operation of an ANN ends with, if it does."""
    module = op.neuron if isinstance(op, Between) else op.module if isinstance(op, Call) else None
    return module if isinstance(module, ReLU | QCFS) else None


def names_of(ann: ProgramNet) -> dict[Value, str]:
    """Return what to call each rectifier, by the map that it puts out."""
    names = {module: name for name, module in ann.named_modules()}
    return {op.out: names[found] for op in ann.program.operations if (found := rectifier_of(op)) is not None}


def rectified(program: Program) -> list[Value]:
    """Return the maps that rectifiers put out, in their order."""
    return [op.out for op in program.operations if rectifier_of(op) is not None]


@torch.no_grad()
def run_through(program: Program, images: Tensor) -> Iterator[tuple[Value, Tensor]]:
    """Yield every map ``[B, ...]`` of an ANN on images; each is let go when nothing reads it any more."""
    maps, steps = {program.input: images.unsqueeze(0)}, Steps(1, {})
    left = uses(program.operations, program.results)
    for op in program.operations:
        run_eager(op, maps, steps)
        yield op.out, maps[op.out][0]
        left.subtract(op.reads())
        for value in {*op.reads(), op.out}:
            if not left[value]:
                maps.pop(value, None)


def by_row(values: Tensor, per_channel: bool) -> Tensor:
    """View ``[B, C, ...]`` as ``[C, n]`` where channels are apart, or else as ``[1, n]``."""
    return values.transpose(0, 1).flatten(1) if per_channel else values.reshape(1, -1)


class TopQuantile:
    """An exact quantile of a stream, from the largest values of each row.

    Args:
        q: Share of the values that lie below it, in (0, 1].
        count: Values per row that will come.
    """

    def __init__(self, q: float, count: int) -> None:
        place = (count - 1) * q
        self.low = math.floor(place)
        self.share = place - self.low
        self.keep = count - self.low
        self.top: Tensor | None = None

    def update(self, values: Tensor) -> None:
        """Take in ``[rows, n]``."""
        if self.top is not None:
            values = torch.cat([self.top, values], 1)
        self.top = values.topk(min(self.keep, values.shape[1]), dim=1).values

    def result(self) -> Tensor:
        """Return the quantile of each row, interpolated between its two neighbours, in float64."""
        assert self.top is not None
        below, above = self.top[:, -1].double(), self.top[:, max(self.keep - 2, 0)].double()
        return below + (above - below) * self.share


@dataclass(frozen=True)
class Activations:
    """What was seen of rectifiers and logits.

    Args:
        quantile: Of every rectifier's output, zeros included.
        logits: The same quantile of all logits, ``[1]``.
        samples: Images that it was taken on.
    """

    quantile: Levels
    logits: Tensor
    samples: int


def quantiles(ann: ProgramNet, batches: Batches, q: float, *, per_channel: bool = False) -> Activations:
    """Return the q-quantile of what every rectifier puts out on all images together; q = 1 is the largest value.

    Exact, by linear interpolation, in one pass: of every layer the share 1 - q of its values is kept.

    Args:
        ann: In eval mode.
        batches: The images.
        q: In (0, 1].
        per_channel: A number for each channel instead of one for the layer.

    Raises:
        ConfigError: q is out of its range, there are no images, too few for this quantile to differ from the largest
            value, or the logits never exceed 0.
    """
    if not 0 < q <= 1:
        raise ConfigError(f"a quantile is a share in (0, 1], such as 0.999, got {q}")
    samples = count_images(batches)
    places = {*rectified(ann.program), *ann.program.results}
    seen: dict[Value, TopQuantile] = {}
    for images in batches:
        for value, values in run_through(ann.program, images):
            if value not in places:
                continue
            is_logits = value in ann.program.results
            rows = by_row(values, per_channel and not is_logits)
            if value not in seen:
                count = rows.shape[1] // len(values) * samples
                if not is_logits:
                    _check_count(q, count, samples)
                seen[value] = TopQuantile(q, count)
            seen[value].update(rows)
    found = {value: top.result() for value, top in seen.items()}
    quantile = {value: found[value] for value in rectified(ann.program)}
    return Activations(quantile, found[ann.program.results[0]], samples)


def _check_count(q: float, count: int, samples: int) -> None:
    if q < 1 and count * (1 - q) < 1:
        needed = math.ceil(samples / (count * (1 - q)))
        raise ConfigError(
            f"the quantile {q:g} of {count} values is their largest: take at least {needed} calibration images instead "
            f"of {samples}, or quantile=1"
        )


def count_images(batches: Batches) -> int:
    """Return how many images there are.

    Raises:
        ConfigError: none.
    """
    samples = sum(len(images) for images in batches)
    if not samples:
        raise ConfigError("there are no calibration images: give some hundreds of the training images")
    return samples


def check_levels(levels: Mapping[Value, Tensor], names: Mapping[Value, str]) -> None:
    """Refuse thresholds that are 0 or not finite.

    Raises:
        ConfigError: names the layer; a channel that is silent beside others gets no error, see ``fill_silent``.
    """
    for value, level in levels.items():
        if not level.isfinite().all():
            raise ConfigError(f"the activations of {names[value]} are not finite on the calibration images")
        if not (level > 0).any():
            raise ConfigError(
                f"the activation of {names[value]} is 0 on all calibration images at this quantile, so it has no "
                "threshold: give more images, normalised as in training, or a higher quantile"
            )


def fill_silent(level: Tensor) -> Tensor:
    """Return the thresholds of channels; those that never fired on calibration images get the layer's largest."""
    return torch.where(level > 0, level, level.max())

"""Which current stands for a spike at every step: rules that choose the threshold of every layer of an ANN."""

import torch
from torch import Tensor

from isospike.conversion.activations import (
    Batches,
    Levels,
    by_row,
    check_levels,
    fill_silent,
    names_of,
    quantiles,
    rectifier_of,
    run_through,
)
from isospike.graph import Value
from isospike.models import ProgramNet

BINS = 1 << 14
ROUNDS, TINY = 100, 1e-30  # of the iteration; below it is no number to divide by
CANDIDATES = torch.arange(100, 5, -1, dtype=torch.float64) / 100  # shares of the largest value, as the source has them


def quantile_thresholds(ann: ProgramNet, batches: Batches, q: float, *, per_channel: bool = False) -> Levels:
    """Return the q-quantile of every layer's activations; q = 1 is their largest value.

    Source: Rueckauer et al. 2017, doi:10.3389/fnins.2017.00682; with q = 1 Diehl et al. 2015.
    """
    seen = quantiles(ann, batches, q, per_channel=per_channel)
    check_levels(seen.quantile, names_of(ann))
    return {value: fill_silent(level) for value, level in seen.quantile.items()}


def mmse_thresholds(ann: ProgramNet, batches: Batches, resolution: int, *, per_channel: bool = False) -> Levels:
    """Return the thresholds at which activations clipped and rounded to ``resolution`` steps err least.

    95 shares of the largest activation are tried, on histograms of 16384 bins.

    Args:
        ann: In eval mode.
        batches: Calibration images.
        resolution: Steps from 0 to the threshold: of time, times the levels of a neuron.
        per_channel: A threshold for each channel.

    Source: Li et al. 2021, arXiv:2106.06984, its released code; there the mean of a few batches.
    """
    largest = quantile_thresholds(ann, batches, 1.0, per_channel=per_channel)
    counts = {value: level.new_zeros(len(level) * BINS, dtype=torch.int64) for value, level in largest.items()}
    for images in batches:
        for value, values in run_through(ann.program, images):
            if value in counts:
                counts[value] += _histogram(by_row(values, per_channel), largest[value])
    return {value: level * _best_share(counts[value].view(-1, BINS), resolution) for value, level in largest.items()}


def gaussian_thresholds(ann: ProgramNet, batches: Batches, resolution: int, *, per_channel: bool = False) -> Levels:
    """Find the thresholds at which normally distributed currents, clipped and rounded, are nearest to rectified ones.

    Mean and variance are those of the current that each rectifier reads. The factor that brings the rounded current
    nearest to the rectified one is 1 at the best threshold, which is found by multiplying with it again and again.

    Args:
        ann: In eval mode.
        batches: Calibration images.
        resolution: Steps from 0 to the threshold: of time, times the levels of a neuron.
        per_channel: A threshold for each channel.

    Raises:
        ConfigError: a layer whose current never exceeds 0.

    Source: Zhang et al. 2026 (H-MT).
    """
    currents = {op.x: op.out for op in ann.program.operations if rectifier_of(op) is not None}
    sums: dict[Value, Tensor] = {}
    for images in batches:
        for value, values in run_through(ann.program, images):
            if value in currents:
                rows = by_row(values, per_channel).double()
                powers = [rows.new_full((len(rows),), rows.shape[1]), rows.sum(1), rows.square().sum(1)]
                sums[value] = sums.get(value, 0) + torch.stack(powers)
    found = {}
    for value, (count, first, second) in sums.items():
        mean = first / count
        found[currents[value]] = _best_for_normal(
            mean, (second / count - mean.square()).clamp(min=0).sqrt(), resolution
        )
    check_levels(found, names_of(ann))
    return {value: fill_silent(level) for value, level in found.items()}


def rounded(x: Tensor, resolution: int) -> Tensor:
    """Round ``x`` in thresholds as neurons do that start at half a threshold, under a constant current."""
    return (x * resolution + 0.5).floor().clamp(0, resolution) / resolution


def _centres(device: torch.device) -> Tensor:
    """Return the middle of every bin of [0, 1]."""
    return (torch.arange(BINS, dtype=torch.float64, device=device) + 0.5) / BINS


def _histogram(rows: Tensor, largest: Tensor) -> Tensor:
    """Return the counts ``[rows * BINS]`` of values between 0 and the largest of each row."""
    bins = (rows.double() / largest[:, None] * BINS).long().clamp(0, BINS - 1)
    bins += torch.arange(len(rows), device=rows.device)[:, None] * BINS
    return torch.bincount(bins[rows > 0], minlength=len(rows) * BINS)


def _best_share(counts: Tensor, resolution: int) -> Tensor:
    """Return the share of the largest value with the least squared error, for every row of counts ``[rows, BINS]``."""
    centres, candidates = _centres(counts.device), CANDIDATES.to(counts.device)
    errors = [(rounded(centres / share, resolution) * share - centres).square() for share in candidates]
    return candidates[(counts.double() @ torch.stack(errors).T).argmin(1)]


def _best_for_normal(mean: Tensor, deviation: Tensor, resolution: int) -> Tensor:
    """Find the threshold of every row ``[rows]``; 0 where a current practically never exceeds 0."""
    x = (mean[:, None] + deviation[:, None] * torch.special.ndtri(_centres(mean.device))).relu()
    threshold = x[:, -1]
    for _ in range(ROUNDS):
        q = rounded(x / threshold[:, None].clamp(min=TINY), resolution)
        factor = (x * q).sum(1) / (threshold * q.square().sum(1)).clamp(min=TINY)
        threshold = threshold * factor
    return threshold

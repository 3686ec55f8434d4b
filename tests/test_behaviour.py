"""How deep networks behave before training: rates, windows, variances and gradients, which catch faults of wiring.

The numbers are those of independent probes of the same units, one random draw each; the tolerances beside them are what
another draw may differ by.
"""

import math
from dataclasses import dataclass, replace

import pytest
import torch

from isospike.analysis import gradient_norms, log10_product, measure_isometry
from isospike.layers import Steps
from isospike.models import SpikingResNet
from isospike.models.bodies import BODIES
from isospike.neurons import NEURONS, SpikingNeuron
from isospike.registry import build
from isospike.residual import TOPOLOGIES, NormInit, ResidualUnit, Stage

T = 4


@dataclass
class Profile:
    """Of the first neuron of units 1, 6, 12, 18, 24: firing rate, and share of potentials inside the surrogate."""

    rates: list[float]
    open: list[float]
    variance: float
    gradient: float


def probe(row, units=24, channels=32):
    """The units in a row on one random current, the same at every step; static inputs are what images give."""
    torch.manual_seed(0)
    stage = Stage(row, [ResidualUnit(row, channels, channels) for _ in range(units)])
    x = 0.5 * torch.randn(1, 8, channels, 16, 16).repeat(T, 1, 1, 1, 1)
    if row.stream == "spike":
        x, _ = build(NEURONS, row.neuron)(x)
    x.requires_grad_()
    seen = []
    for unit in stage:
        first = next(m for m in unit.branch.children() if isinstance(m, SpikingNeuron))
        first.register_forward_hook(lambda m, args, out: seen.append((out[0].mean().item(), open_share(args[0]))))
    y = stage([x], Steps(T))
    g = torch.randn_like(y)
    (dx,) = torch.autograd.grad(y, x, g)
    at = [seen[unit] for unit in (0, 5, 11, 17, 23)]
    return Profile([r for r, _ in at], [o for _, o in at], y.var().item(), (dx.norm() / g.norm()).item())


def open_share(x):
    """Share of potentials at which the rectangle of width 1 around 0.5 lets a gradient through."""
    v, inside = torch.zeros_like(x[0]), []
    for x_t in x.detach():
        h = 0.25 * v + x_t
        inside.append((h - 0.5).abs() < 0.5)
        v = h * (h <= 0.5)
    return torch.stack(inside).float().mean().item()


def tail(name, weight, **fields):
    return replace(TOPOLOGIES[name].with_tail_init(weight), **fields)


# row; rate of the units; open share of first and last; variance behind the last unit; gradient behind / before it
PROFILES = {
    "plain": (TOPOLOGIES["plain"], [0.171, 0.146, 0.148, 0.147, 0.147], (0.47, 0.45), 0.125, 0.26),
    "vanilla": (TOPOLOGIES["vanilla"], [0.171, 0.154, 0.156, 0.155, 0.157], (0.47, 0.46), 0.25, 0.047),
    "cns": (TOPOLOGIES["da_cns"], [0.171, 0.161, 0.164, 0.167, 0.168], (0.47, 0.47), 3.6, 2.1),
    "ncs": (TOPOLOGIES["da_ncs"], [0.225, 0.207, 0.207, 0.209, 0.208], (0.43, 0.42), 4.5, 6.6),
    "scn, tail 0.5": (tail("da_scn", 0.5), [0.190, 0.325, 0.361, 0.380, 0.390], (0.48, 0.15), 6.3, 13),
    "scn, tail 0.1": (tail("da_scn", 0.1), [0.190, 0.198, 0.213, 0.227, 0.239], (0.48, 0.40), 0.50, 1.2),
    "nsc": (TOPOLOGIES["da_nsc"], [0.189, 0.159, 0.154, 0.152, 0.152], (0.48, 0.46), 6.6, 3.8),
    "scn, rsqrt": (tail("da_scn", 0.5, combine="rsqrt"), [0.190, 0.158, 0.151, 0.151, 0.153], (0.48, 0.45), 0.25, None),
}


@pytest.mark.parametrize("name", PROFILES)
def test_units_in_a_row_behave_as_probed(name):
    row, rates, (first, last), variance, gradient = PROFILES[name]
    found = probe(row)
    assert found.rates == pytest.approx(rates, abs=0.02)
    assert (found.open[0], found.open[-1]) == pytest.approx((first, last), abs=0.02)
    assert found.variance == pytest.approx(variance, rel=0.15)
    if gradient:
        assert abs(math.log2(found.gradient / gradient)) < 1


def test_a_norm_before_the_neuron_keeps_rates_flat_and_a_large_tail_behind_it_does_not():
    flat, rising = probe(TOPOLOGIES["da_nsc"]).rates, probe(tail("da_scn", 0.5)).rates
    assert 0.7 < flat[-1] / flat[0] < 1.1
    assert rising[-1] / rising[0] > 1.8


# std of the current: share of (neuron, step), and of neurons at all 4 steps, that no level lets a gradient through
DORMANT = {
    0.6: {1: (0.616, 0.170), 2: (0.586, 0.146), 3: (0.585, 0.146)},
    1.0: {1: (0.690, 0.241), 2: (0.584, 0.136), 3: (0.567, 0.126)},
}


@pytest.mark.parametrize("levels", [1, 2, 3])
@pytest.mark.parametrize("std", DORMANT)
def test_more_levels_leave_fewer_neurons_dormant(std, levels):
    """Currents of independent normal numbers, T = 4; the gradient of one step is the sum of the levels' windows."""
    neuron = build(NEURONS, {**TOPOLOGIES["ds"].neuron, "levels": levels})
    current = std * torch.randn(T, 1, 50_000, generator=torch.Generator().manual_seed(0))
    dormant, v = [], None
    for x in current.split(1):
        x.requires_grad_()
        s, v = neuron(x, v)
        (window,) = torch.autograd.grad(s.sum(), x)
        dormant.append(window[0] == 0)
        v = v.detach()
    at_a_step, at_all = torch.stack(dormant).float().mean().item(), torch.stack(dormant).all(0).float().mean().item()
    assert (at_a_step, at_all) == pytest.approx(DORMANT[std][levels], abs=0.006)


def deep(name, depth, gamma=None):
    """A CIFAR network with strided projections and MS neurons; norms start at 1/2, those that end a branch at gamma."""
    half = NormInit(0.5)
    row = replace(TOPOLOGIES[name], norm=half, norm_last=half, norm_project=half, neuron=TOPOLOGIES["ms"].neuron)
    if gamma is not None:
        row = row.with_tail_init(gamma)
    torch.manual_seed(0)
    return SpikingResNet(row, BODIES["cifar"].layout(depth, None), num_classes=10, T=6)


# unit and last gamma, depth; phi of identity units: smallest, median, largest; log10 of the product; gradient ratio
ISOMETRY = {
    ("vanilla", None, 20): ((0.95, 1.00, 1.13), -0.01, 1.41),
    ("vanilla", None, 56): ((0.90, 0.94, 1.13), -0.64, 1.30),
    ("da_cns", None, 20): ((1.24, 1.37, 1.42), 0.19, 1.5),
    ("da_cns", None, 56): ((1.08, 1.15, 1.42), 0.33, 2.2),
    ("ms", 0.5, 20): ((1.40, 1.51, 1.54), 0.80, 2.6),
    ("ms", 0.5, 56): ((1.23, 1.30, 1.53), 2.20, 17),
    ("ms", 0.1, 20): ((1.03, 1.03, 1.03), 0.10, 1.10),
    ("ms", 0.1, 56): ((1.03, 1.03, 1.03), 0.08, 1.09),
    ("ms", 0.0, 20): ((1.0, 1.0, 1.0), 0.12, 1.07),
    ("ms", 0.0, 56): ((1.0, 1.0, 1.0), 0.07, 0.97),
}


@pytest.mark.parametrize(("name", "gamma", "depth"), ISOMETRY)
def test_isometry_at_initialisation_is_as_probed(name, gamma, depth):
    (low, median, high), product, ratio = ISOMETRY[name, gamma, depth]
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0)).repeat(6, 1, 1, 1, 1)
    units = measure_isometry(deep(name, depth, gamma), images, probes=2)
    identity = sorted(unit.phi.value for unit in units if not unit.projects)
    assert identity[len(identity) // 2] == pytest.approx(median, abs=0.03)
    assert (identity[0], identity[-1]) == (pytest.approx(low, abs=0.03), pytest.approx(high, abs=0.3))
    assert log10_product(units).value == pytest.approx(product, abs=0.15)
    norms = [*gradient_norms(deep(name, depth, gamma), images, torch.arange(4)).inputs.values()]
    assert abs(math.log2(norms[0] / norms[-1] / ratio)) < 1
    if gamma == 0:
        assert identity[0] == identity[-1] == 1

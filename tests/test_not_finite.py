"""What is not finite does the same on every backend: whether it fires, is reset, and reaches its neighbours."""

from itertools import product
from math import inf, nan

import pytest
import torch

from helpers import SPIKING, device_of, make_neuron
from isospike.layers import BatchNorm, fold_time
from isospike.ops import BACKENDS, Firing, leaky_fire, reference, use_backend
from isospike.ops.cpu.pointwise import CompiledPass
from isospike.ops.pointwise import Pointwise, ScaleShift, Span, eager_pass
from isospike.surrogates import SURROGATES

ODD = [nan, inf, -inf, 3e38, -3e38]
OTHERS = [
    pytest.param("cpu", marks=pytest.mark.compiled),
    pytest.param("triton", marks=pytest.mark.triton),
]
RULES = list(product(SURROGATES, ({}, {"v_reset": -0.25}, {"reset": "subtract"}), (False, True)))
NEURONS = [
    make_neuron("mlf" if levels else "lif", surrogate=surrogate, detach_reset=detach, **reset)
    for levels, (surrogate, reset, detach) in product((False, True), RULES)
] + [make_neuron(kind) for kind in SPIKING]


def current(value, shape=(4, 2, 8, 3, 3)):
    """Random but for one pixel of one step, and one channel of the first."""
    x = torch.randn(shape)
    x[1, 0, 2, 1, 1] = x[0, 1, 3] = value
    return x


@pytest.mark.parametrize("value", ODD)
@pytest.mark.parametrize("name", OTHERS)
def test_spikes_and_potentials_are_those_of_the_reference(name, value):
    for neuron in NEURONS if name == "cpu" else NEURONS[::7]:
        decay, gain = (float(torch.as_tensor(c).detach()) for c in neuron.coefficients())
        x, found = current(value), []
        for backend in (name, "reference"):
            with use_backend(backend):
                given = x.to(device_of(name)).requires_grad_()
                s, v = leaky_fire(given, None, decay=decay, gain=gain, rule=neuron.rule)
                (d,) = torch.autograd.grad([s.sum(), v.sum()], given)
            found.append((s, v) if abs(value) == 3e38 else (s, v, d))  # products of the largest floats overflow
        for ours, true in zip(*found, strict=True):
            torch.testing.assert_close(ours, true, rtol=1e-4, atol=1e-5, equal_nan=True)


def test_infinity_is_reset_and_has_no_gradient():
    for neuron in (make_neuron("lif"), make_neuron("lif", v_reset=-0.25), make_neuron("mlf")):
        x = torch.tensor([inf, 0.0, 0.0]).view(3, 1, 1).requires_grad_()
        with use_backend("reference"):
            s, v = neuron(x)
        assert s.flatten().tolist() == [neuron.levels, 0, 0]
        assert v.isfinite().all()
        assert torch.autograd.grad(s.sum() + v.sum(), x)[0][0] == 0


@pytest.mark.parametrize("value", [nan, inf, -inf])
@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("kind", [None, "lif"])
def test_a_norm_and_its_neurons_are_those_of_the_reference(name, value, kind):
    neuron = None if kind is None else make_neuron(kind)
    firing = None if neuron is None else Firing(*neuron.coefficients(), neuron.rule)
    x, skip = (t.to(device_of(name)) for t in (current(value), torch.randn(4, 2, 8, 3, 3)))
    weight, bias = torch.rand(8, device=x.device), torch.randn(8, device=x.device)
    run = BACKENDS[name].fused.run
    ours, true = (
        function(x, weight, bias, 1e-5, skip=skip, firing=firing, added=None, keep=True)
        for function in (run, reference.norm_fire)
    )
    for a, b in zip(ours, true, strict=True):
        if a is not None:
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4, equal_nan=True)


def test_a_channel_that_is_not_finite_leaves_its_running_statistics_and_no_other_s():
    norm = BatchNorm(8)
    fold_time(norm, current(nan))
    stays = torch.tensor([channel in (2, 3) for channel in range(8)])
    assert torch.equal(norm.running_mean == 0, stays)
    assert torch.equal(norm.running_var == 1, stays)


@pytest.mark.compiled
@pytest.mark.parametrize("value", ODD)
@pytest.mark.parametrize("rule", ["none", "relu", "lif", "mlf"])
def test_what_stands_between_compiled_convolutions_is_what_it_is_in_eager_pytorch(rule, value):
    neuron = None if rule in ("none", "relu") else make_neuron(rule)
    firing = {"none": None, "relu": "rectifier"}.get(rule)
    if neuron is not None:
        firing = Firing(*neuron.coefficients(), neuron.rule)
    x, z = (current(value).flatten(0, 1).contiguous(memory_format=torch.channels_last) for _ in range(2))
    for join in (None, "add", "and", "iand"):
        spec = Pointwise(x=ScaleShift(torch.rand(1, 8) + 0.5, torch.randn(1, 8)), firing=firing, join=join)
        given = (Span(4, 2), x, None, None if join is None else z)
        torch.testing.assert_close(CompiledPass(spec, 8)(*given).out, eager_pass(spec, *given).out, equal_nan=True)

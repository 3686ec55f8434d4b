"""Norm, sum and neuron in one pass do what they do one after the other."""

from itertools import product

import pytest
import torch

import isospike as iso
from helpers import SPIKING, STEPPING, device_of, in_few_programs, make_neuron
from isospike.errors import ConfigError
from isospike.layers import Steps
from isospike.ops import BACKENDS, Firing, norm_fire, reference, use_backend
from isospike.surrogates import SURROGATES

pytestmark = pytest.mark.compiled
# Those of other devices have tests of a size of their own: test_gpu_norm_fire.py.
FUSED = [name for name in BACKENDS if BACKENDS[name].fused is not None and BACKENDS[name].device == "cpu"]
PARTS = [  # skip and added: None, as long as time, or the same at every step; whether u is wanted
    (skip, added, keep) for skip, added, keep in product((None, 1, 3), (None, 1, 3), (False, True)) if skip or not keep
]


def images(T, C=6, side=4, B=2):
    """Random values, channels-last."""
    return torch.randn(T * B, C, side, side).contiguous(memory_format=torch.channels_last).unflatten(0, (T, B))


EXACT_EPS = 0.25


def dyadic_images(T, C=4):
    """Per channel a mean of c/2 and a variance of 3/4, whose root is 1 with ``EXACT_EPS`` added: all sums are exact."""
    values = torch.tensor([-1.0, 1.0, -1.0, 1.0, -1.0, 1.0, 0.0, 0.0]).repeat(T * 4)[torch.randperm(T * 32)]
    x = torch.stack([values.roll(c) + c / 2 for c in range(C)], -1)
    return x.view(T * 2, 4, 4, C).permute(0, 3, 1, 2).unflatten(0, (T, 2))


def firing_of(neuron):
    return None if neuron is None else Firing(*neuron.coefficients(), neuron.rule)


def results(run, x, weight, bias, neuron, skip, added, keep, grads, eps=1e-5):
    """Outputs, and gradients of all inputs and parameters, for the same random gradients of the outputs."""
    given = [t for t in (x, weight, bias, skip, added) if t is not None]
    for tensor in given:
        tensor.requires_grad_()
    inputs = given + ([] if neuron is None else list(neuron.parameters()))
    done = run(x, weight, bias, eps, skip=skip, firing=firing_of(neuron), added=added, keep=keep or neuron is None)
    outputs = [t for t in (done.u, done.s) if t is not None]
    return done, torch.autograd.grad(outputs, inputs, grads[: len(outputs)])


def assert_same(name, arguments, eps=1e-5, **tolerance):
    x, *_ = arguments
    grads = [(torch.randint(-4, 5, x.shape) / 4) for _ in range(2)]
    ours, d = results(BACKENDS[name].fused.run, *arguments, grads, eps)
    true, d_true = results(reference.norm_fire, *arguments, grads, eps)
    for a, b in zip([*ours, *d], [*true, *d_true], strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b, **tolerance)


@pytest.mark.parametrize("name", FUSED)
@pytest.mark.parametrize("surrogate", SURROGATES)
@pytest.mark.parametrize("kind", STEPPING)
def test_the_bits_of_the_reference_where_sums_are_exact(name, surrogate, kind):
    for reset, detach, strict in product(({}, {"v_reset": -0.25}, {"reset": "subtract"}), (False, True), (False, True)):
        neuron = make_neuron(kind, surrogate=surrogate, detach_reset=detach, strict=strict, **reset)
        x, skip = dyadic_images(4), torch.randint(-2, 3, (4, 2, 4, 4, 4)) / 2
        weight, bias = torch.tensor([1.0, 0.5, 2.0, 1.0]), torch.tensor([0.25, 0.0, -0.5, 1.0])
        given = x, weight, bias, neuron, skip, None, True
        ours, true = (
            run(*given[:3], EXACT_EPS, skip=skip, firing=firing_of(neuron), added=None, keep=True)
            for run in (BACKENDS[name].fused.run, reference.norm_fire)
        )
        assert torch.equal(ours.u, true.u)
        assert torch.equal(ours.s, true.s)
        assert 0 < ours.s.mean() < neuron.levels
        assert_same(name, given, eps=EXACT_EPS, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", FUSED)
@pytest.mark.parametrize("kind", [None, *SPIKING])
@pytest.mark.parametrize("parts", PARTS, ids=str)
def test_every_neuron_with_and_without_skip(name, kind, parts):
    skip, added, keep = parts
    if kind is None and added:
        return  # nothing fires, so there is nothing to add spikes to
    neuron = None if kind is None else make_neuron(kind)
    for C, side in ((6, 4), (1, 3), (300, 2), (7, 1)):
        skipped, addend = (None if T is None else images(T, C, side) for T in (skip, added))
        weight, bias = torch.rand(C) + 0.5, 0.3 * torch.randn(C)
        assert_same(name, (images(3, C, side), weight, bias, neuron, skipped, addend, keep), rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("name", FUSED)
def test_more_channels_and_pixels_than_fit_a_block(name):
    for C, side, B in ((2048, 2, 2), (16, 32, 3), (48, 9, 1)):
        x = images(2, C, side, B)
        assert_same(
            name, (x, torch.rand(C) + 0.5, torch.randn(C), make_neuron("lif"), None, None, False), atol=1e-4, rtol=1e-3
        )


@pytest.mark.parametrize("name", FUSED)
def test_a_large_mean_does_not_cancel_the_variance(name):
    x = images(4, 3, 8) * torch.tensor([1e-2, 1.0, 1.0]).view(3, 1, 1) + torch.tensor([50.0, -300.0, 0.0]).view(3, 1, 1)
    done = BACKENDS[name].fused.run(
        x, torch.ones(3), torch.zeros(3), 1e-5, skip=None, firing=None, added=None, keep=True
    )
    exact = x.double().transpose(0, 2).flatten(1)
    torch.testing.assert_close(done.mean.double(), exact.mean(1), rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(done.var.double(), exact.var(1, correction=0), rtol=1e-4, atol=0.0)


@pytest.mark.parametrize("name", FUSED)
def test_any_memory_order_is_taken(name):
    x = images(3, 4, 5)
    weight, bias, g = torch.rand(4), torch.randn(4), torch.randn(3, 2, 4, 5, 5)
    outcomes = []
    for given in (x, x.contiguous(), x.transpose(0, 1).contiguous().transpose(0, 1)):
        outcomes.append(
            results(BACKENDS[name].fused.run, given, weight, bias, make_neuron("lif"), None, None, False, [g])
        )
    for done, d in outcomes[1:]:
        assert torch.equal(done.s, outcomes[0][0].s)
        assert all(torch.equal(a, b) for a, b in zip(d, outcomes[0][1], strict=True))


@pytest.mark.parametrize("name", FUSED)
def test_the_number_of_threads_does_not_change_a_bit(name):
    x, skip, g = images(4, 24, 16), images(4, 24, 16), torch.randn(4, 2, 24, 16, 16)
    threads, outcomes = torch.get_num_threads(), []
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        given = x, torch.ones(24), torch.zeros(24), make_neuron("plif"), skip, None, True
        outcomes.append(results(BACKENDS[name].fused.run, *given, [g, g]))
    torch.set_num_threads(threads)
    for done, d in outcomes[1:]:
        for a, b in zip([*done, *d], [*outcomes[0][0], *outcomes[0][1]], strict=True):
            assert torch.equal(a, b)


def test_without_a_fused_backend_there_is_none():
    x = images(2)
    assert norm_fire(x, torch.ones(6), torch.zeros(6), 1e-5) is not None
    assert norm_fire(x.double(), torch.ones(6).double(), torch.zeros(6).double(), 1e-5) is None
    with use_backend("reference"):
        assert norm_fire(x, torch.ones(6), torch.zeros(6), 1e-5) is None


def test_a_second_derivative_is_refused():
    x = images(2).requires_grad_()
    done = norm_fire(x, torch.ones(6), torch.zeros(6), 1e-5)
    with pytest.raises(ConfigError, match=r"no second derivative: run this inside iso.use_backend\('reference'\)"):
        torch.autograd.grad(done.u.sum(), x, create_graph=True)


def units(model, x):
    """Every unit with what it read in a training forward of the reference."""
    seen = []
    hooks = [u.register_forward_hook(lambda u, args, out: seen.append((u, args[0].detach()))) for u in model.units()]
    with use_backend("reference"):
        model(x)
    for hook in hooks:
        hook.remove()
    return seen


@pytest.mark.parametrize("topology", iso.TOPOLOGIES)
@pytest.mark.parametrize("name", FUSED)
def test_every_unit_of_every_row(topology, name):
    torch.manual_seed(1)
    model = iso.create_model(f"{topology}_resnet8", T=3)
    for unit, x in units(model, torch.randn(4, 3, 16, 16)):
        outcomes = []
        for backend in (name, "reference"):
            given, steps = x.clone().requires_grad_(), Steps(3)
            buffers = {k: v.clone() for k, v in unit.state_dict().items()}
            with use_backend(backend):
                y = unit(given, steps)
            inputs = [given, *unit.parameters()]
            g = torch.randn(y.shape, generator=torch.Generator().manual_seed(2))
            outcomes.append(
                (y, torch.autograd.grad(y, inputs, g), {k: v.clone() for k, v in unit.state_dict().items()})
            )
            unit.load_state_dict(buffers)
        (y, d, after), (y_true, d_true, after_true) = outcomes
        # Another order of summation may move a potential over its threshold: rarely, and then one spike.
        assert (~torch.isclose(y, y_true, atol=1e-4)).float().mean() < 2e-3
        for key in after:
            torch.testing.assert_close(after[key], after_true[key], rtol=1e-3, atol=1e-4)
        if torch.allclose(y, y_true, atol=1e-4):
            largest = max(b.norm() for b in d_true)
            for a, b in zip(d, d_true, strict=True):
                assert (a - b).norm() <= 1e-3 * b.norm() + 1e-5 * largest


@pytest.mark.parametrize("name", FUSED)
def test_the_next_neuron_fires_in_the_pass_that_makes_its_current(name, monkeypatch):
    model = iso.create_model("ms_resnet20")
    calls = []
    alone = iso.neurons.leaky_fire
    monkeypatch.setattr(iso.neurons, "leaky_fire", lambda *a, **rest: calls.append(a) or alone(*a, **rest))
    with use_backend(name):
        model(torch.randn(2, 3, 32, 32))
    # Left to fire alone: the first unit's, on a static current, and what projections read on their own.
    assert len(calls) <= 3


@pytest.mark.parametrize("name", FUSED)
def test_a_hook_is_called_and_changes_what_it_would(name):
    model = iso.create_model("ms_resnet8", T=2)
    x = torch.randn(2, 3, 16, 16)
    called = set()
    hooks = [
        m.register_forward_hook(lambda m, *_: called.add(m))
        for m in model.modules()
        if isinstance(m, iso.neurons.Neuron | torch.nn.Conv2d | iso.layers.BatchNorm | iso.layers.Chain)
    ]
    with use_backend(name):
        model(x)
    assert len(called) == len(hooks) > 20
    for hook in hooks:
        hook.remove()
    silence = model.stages[0][0].register_forward_hook(lambda m, a, out: torch.zeros_like(out))
    with use_backend(name):
        second_reads = []
        model.stages[1][0].register_forward_pre_hook(lambda m, args: second_reads.append(args[0]))
        model(x)
    silence.remove()
    assert second_reads[0].abs().sum() == 0


@pytest.mark.parametrize("name", FUSED)
def test_the_gradient_of_what_stays_lies_in_memory_as_it_does(name):
    x, skip = images(3, 8), images(1, 8)
    _, (*_, d_skip) = results(
        BACKENDS[name].fused.run, x, torch.ones(8), torch.zeros(8), None, skip, None, True, [images(3, 8)]
    )
    current, g = images(1, 8).requires_grad_(), images(3, 8)
    (d_current,) = torch.autograd.grad(Steps(3).unroll(current), current, g)
    torch.testing.assert_close(d_current, g.sum(0, keepdim=True))
    assert d_skip[0].stride() == skip[0].stride()
    assert d_current[0].stride() == current[0].stride()


@pytest.mark.triton
@pytest.mark.parametrize("topology", iso.TOPOLOGIES)
def test_a_network_learns_the_same_on_every_backend(topology, monkeypatch):
    """A spike at the edge of its threshold may differ, so losses are compared, not bits."""
    in_few_programs(monkeypatch)
    losses = {}
    for name in BACKENDS:
        torch.manual_seed(0)
        model = iso.create_model(f"{topology}_resnet8", T=2, width=8, num_classes=4).to(device_of(name))
        optimizer = torch.optim.SGD(model.parameters(), 0.05)
        x, y = torch.randn(4, 3, 8, 8).to(device_of(name)), torch.arange(4, device=device_of(name))
        with use_backend(name):
            for _ in range(2):
                loss = torch.nn.functional.cross_entropy(model(x), y)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        losses[name] = loss.item()
    assert max(losses.values()) - min(losses.values()) < 0.1 * losses["reference"] + 0.05

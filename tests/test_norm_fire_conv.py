"""Norm, neurons and the convolution behind them in one pass have the bits of one after the other."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import isospike as iso
from helpers import enliven
from isospike import fused_training
from isospike.errors import ConfigError
from isospike.layers import MEMORY
from isospike.neurons import Neuron
from isospike.ops import FireRule, Firing, IntegerRule, norm_fire, norm_fire_conv, packed_conv, use_backend
from isospike.residual import TOPOLOGIES
from isospike.surrogates import Arctan, Rectangle

pytestmark = pytest.mark.compiled
MASKED = FireRule(0.5, surrogate=Rectangle(1.0), detach_reset=True)
RULES = {
    "masks": MASKED,
    "subtract": FireRule(0.5, reset="subtract", surrogate=Rectangle(1.0), detach_reset=True),
    "arctan": FireRule(0.5, surrogate=Arctan(2.0)),
}
# Channels, filters, kernel, stride, side, bias of the current: sums over what fired; where nearly all fire, with fewer
# products and with all of them; few pixels; channels that do not fill a word.
SHAPES = {
    "spikes": (16, 32, 3, 1, 16, 0.0),
    "stride": (32, 16, 3, 2, 11, 0.0),
    "1x1": (64, 16, 1, 1, 8, 0.0),
    "fewer products": (16, 16, 3, 1, 16, 4.0),
    "dense": (24, 12, 3, 1, 9, 4.0),
    "few pixels": (16, 16, 3, 1, 1, 0.0),
    "72 channels": (72, 16, 3, 1, 6, 0.0),
}


def maps(T, B, C, side, **options):
    return torch.randn(T, B, side, side, C).permute(0, 1, 4, 2, 3).requires_grad_(**options)


def one_by_one(conv, x, weight, bias, *, skip, firing, keep):
    done = norm_fire(x, weight, bias, 1e-5, skip=skip, firing=firing, keep=keep)
    y = packed_conv(conv, done.s.flatten(0, 1))
    y = conv(done.s.flatten(0, 1)) if y is None else y
    return done.u, y.unflatten(0, x.shape[:2]), done.mean, done.var


def in_one(conv, x, weight, bias, *, skip, firing, keep):
    return tuple(norm_fire_conv(conv, x, weight, bias, 1e-5, skip=skip, firing=firing, keep=keep))


def assert_same_bits(conv, x, skip, firing, keep, around=0.0):
    C = x.shape[2]
    weight, bias = torch.rand(C).add(0.5).requires_grad_(), torch.rand(C).add(around).requires_grad_()
    given = [t for t in (x, weight, bias, skip, firing.decay, *conv.parameters()) if torch.is_tensor(t)]
    needed = [t for t in given if t.requires_grad]
    found = []
    for run in (one_by_one, in_one):
        u, y, mean, var = run(conv, x, weight, bias, skip=skip, firing=firing, keep=keep)
        outputs = [t for t in (u, y) if t is not None]
        torch.manual_seed(1)
        grads = [torch.randn_like(t) for t in outputs]
        found.append([*outputs, mean, var, *torch.autograd.grad(outputs, needed, grads)])
    assert len(found[0]) == len(found[1])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.usefixtures("each_isa")
def test_it_has_the_bits_of_one_after_the_other(shape, rule):
    C, filters, kernel, stride, side, around = SHAPES[shape]
    conv = nn.Conv2d(C, filters, kernel, stride, kernel // 2)
    assert_same_bits(conv, maps(3, 2, C, side), None, Firing(0.5, 1.0, RULES[rule]), keep=False, around=around)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("steps", [1, 3])
def test_a_skip_joins_the_current_and_the_sum_is_kept(steps, keep, rule):
    conv = nn.Conv2d(16, 16, 3, padding=1, bias=False)
    assert_same_bits(conv, maps(3, 2, 16, 8), maps(steps, 2, 16, 8), Firing(0.5, 1.0, RULES[rule]), keep)


def test_a_decay_is_learnt():
    decay = torch.tensor(0.5, requires_grad=True)
    assert_same_bits(nn.Conv2d(16, 16, 3, padding=1), maps(3, 2, 16, 8), None, Firing(decay, 1.0, MASKED), keep=False)


def test_what_needs_no_gradient_gets_none():
    conv, firing = nn.Conv2d(16, 16, 3, padding=1), Firing(0.5, 1.0, MASKED)
    conv.requires_grad_(False)
    assert_same_bits(conv, maps(3, 2, 16, 8), None, firing, keep=False)
    conv.requires_grad_(True)
    x, weight, bias = maps(3, 2, 16, 8, requires_grad=False), torch.ones(16), torch.zeros(16)
    found = []
    for run in (one_by_one, in_one):
        _, y, *_ = run(conv, x, weight, bias, skip=None, firing=firing, keep=False)
        found.append(torch.autograd.grad(y.square().sum(), conv.weight)[0])
    assert torch.equal(*found)


def test_a_sum_that_alone_is_read_passes_its_gradient():
    """Behind the last convolution that anybody needs."""
    x, weight, bias = maps(3, 2, 16, 8), torch.ones(16, requires_grad=True), torch.zeros(16)
    arguments = (nn.Conv2d(16, 16, 3, padding=1), x, weight, bias)
    options = {"skip": maps(3, 2, 16, 8), "firing": Firing(0.5, 1.0, MASKED), "keep": True}
    ours, plain = (
        torch.autograd.grad(run(*arguments, **options)[0].sum(), [x, weight]) for run in (in_one, one_by_one)
    )
    assert all(torch.equal(a, b) for a, b in zip(ours, plain, strict=True))


def test_a_second_derivative_is_refused():
    x, weight, bias = maps(3, 2, 16, 8), torch.ones(16), torch.zeros(16)
    firing = Firing(0.5, 1.0, MASKED)
    _, y, *_ = in_one(nn.Conv2d(16, 16, 3, padding=1), x, weight, bias, skip=None, firing=firing, keep=False)
    with pytest.raises(ConfigError, match=r"no second derivative: run this inside iso.use_backend\('reference'\)"):
        torch.autograd.grad(y.sum(), x, create_graph=True)


@pytest.mark.parametrize(
    ("rule", "conv", "dtype"),
    [
        (FireRule(0.5, higher=(1.5,), surrogate=Rectangle(1.0)), nn.Conv2d(16, 16, 3, padding=1), torch.float32),
        (IntegerRule(4), nn.Conv2d(16, 16, 3, padding=1), torch.float32),
        (MASKED, nn.Conv2d(16, 16, 5, padding=2), torch.float32),
        (MASKED, nn.Conv2d(16, 16, 3, padding=1, groups=2), torch.float32),
        (MASKED, nn.Conv2d(16, 16, 3, padding=1).double(), torch.float64),
    ],
    ids=["levels", "integers", "5x5", "groups", "float64"],
)
def test_what_it_has_not_runs_one_by_one(rule, conv, dtype):
    x, ones = maps(2, 2, 16, 8).to(dtype), torch.ones(16, dtype=dtype)
    assert norm_fire_conv(conv, x, ones, ones, 1e-5, firing=Firing(0.5, 1.0, rule)) is None


def test_it_is_left_to_the_backend_that_was_asked_for():
    x, ones, conv = maps(2, 2, 16, 8), torch.ones(16), nn.Conv2d(16, 16, 3, padding=1)
    for name, there in (("auto", True), ("cpu", True), ("reference", False)):
        with use_backend(name):
            assert (norm_fire_conv(conv, x, ones, ones, 1e-5, firing=Firing(0.5, 1.0, MASKED)) is not None) == there


def gradients(model, x):
    """The loss, and the gradients of all parameters."""
    model.zero_grad()
    loss = F.cross_entropy(model(x), torch.arange(len(x)))
    loss.backward()
    return [loss.detach(), *(p.grad for p in model.parameters())]


@pytest.mark.parametrize("memory", MEMORY)
@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_networks_have_the_same_bits(topology, memory, monkeypatch):
    model = enliven(iso.create_model(f"{topology}_resnet8", T=2)).train()
    model.memory = memory
    x = torch.randn(4, 3, 16, 16)
    ours = gradients(model, x)
    monkeypatch.setattr(fused_training, "norm_fire_conv", lambda *arguments, **options: None)
    assert all(torch.equal(a, b) for a, b in zip(ours, gradients(model, x), strict=True))


def test_every_neuron_behind_a_norm_is_one_with_its_convolution(monkeypatch):
    calls, original = [], fused_training.norm_fire_conv
    monkeypatch.setattr(fused_training, "norm_fire_conv", lambda *a, **o: calls.append(a[0]) or original(*a, **o))
    model = iso.create_model("ms_resnet20", T=2).train()
    gradients(model, torch.randn(4, 3, 16, 16))
    units = [name for name, m in model.named_modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)][1:]
    assert len(calls) == len(units) - 1  # the first one reads the stem, whose norm another operation has


def test_hooks_see_the_spikes():
    model = iso.create_model("ms_resnet8", T=2).train()
    x, seen = torch.randn(4, 3, 16, 16), []
    ours = gradients(model, x)
    for neuron in [m for m in model.modules() if isinstance(m, Neuron)]:
        neuron.register_forward_hook(lambda module, inputs, output: seen.append(output))
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(ours, gradients(model, x), strict=True))
    assert len(seen) > 5

"""Where two bits of a potential are all that the backward needs, they are all that is kept."""

from itertools import product

import pytest
import torch

from helpers import dyadic, make_neuron
from isospike.ops import FireRule, IntegerRule, leaky_fire, norm_fire, use_backend
from isospike.ops.cpu import leaky_fire as cpu_leaky_fire
from isospike.ops.cpu import norm_fire as cpu_norm_fire
from isospike.surrogates import SURROGATES, Rectangle
from test_norm_fire import assert_same, firing_of, images

pytestmark = pytest.mark.compiled

LEVELS = {1: (), 3: (1.0, 1.75)}
GATED = [
    FireRule(v_threshold=0.5, reset=reset, surrogate=Rectangle(0.75), detach_reset=True, strict=strict, higher=higher)
    for reset, strict, higher in product(("to_value", "subtract"), (False, True), LEVELS.values())
] + [FireRule(v_threshold=0.5, v_reset=-0.25, surrogate=Rectangle(2.0), detach_reset=True)]
SIZES = [1, 63, 64, 512, 513, 1024, 1061, 3000]  # around the rows of 512 neurons and the blocks of 1024


def results(backend, x, v, rule, grads):
    x, v = (None if t is None else t.clone().requires_grad_() for t in (x, v))
    with use_backend(backend):
        outputs = leaky_fire(x, v, decay=0.25, gain=0.5, rule=rule)
    return *outputs, *torch.autograd.grad(outputs, [x] if v is None else [x, v], grads)


@pytest.mark.parametrize("rule", GATED, ids=str)
@pytest.mark.parametrize("rests", [True, False])
@pytest.mark.parametrize("N", SIZES)
def test_gradients_from_masks_have_the_bits_of_the_reference(rule, rests, N):
    x, v = dyadic(4, 1, N), None if rests else dyadic(*rule.state_shape((1, N)))
    grads = dyadic(4, 1, N), dyadic(*rule.state_shape((1, N)))
    for ours, true in zip(*(results(name, x, v, rule, grads) for name in ("cpu", "reference")), strict=True):
        assert torch.equal(ours, true)


@pytest.mark.parametrize("reset", ["to_value", "subtract"])
@pytest.mark.parametrize("levels", LEVELS)
@pytest.mark.parametrize("C", [6, 16, 20, 600])  # blocks of 510, 512, 500 and 600 neurons
@pytest.mark.parametrize(
    ("skip", "added", "keep"), [(None, None, False), (3, None, True), (3, None, False), (1, 3, True)]
)
def test_a_norm_that_fires_passes_its_gradient_through_masks(reset, levels, C, skip, added, keep):
    rule = {"v_threshold": 0.5, "reset": reset, "higher": LEVELS[levels], "detach_reset": True}
    neuron = make_neuron("lif", surrogate=Rectangle(1.0), **rule)
    x = images(3, C)
    others = [None if steps is None else images(steps, C) for steps in (skip, added)]
    arguments = (x, torch.rand(C) + 0.5, torch.randn(C), neuron, *others, keep)
    assert_same("cpu", arguments, rtol=1e-4, atol=1e-5)


def kept_bytes(rule, decay=0.25):
    """Of a forward on [4, 1, 2048]."""
    sizes = []
    with (
        torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.nbytes) or t, lambda t: t),
        use_backend("cpu"),
    ):
        leaky_fire(dyadic(4, 1, 2048).requires_grad_(), decay=decay, gain=1.0, rule=rule)
    return sum(sizes)


def test_two_bits_are_kept_where_they_make_do_and_the_current_elsewhere():
    whole, bits = 4 * 2048 * 4, 4 * 2048 // 4
    for surrogate, detach in product(SURROGATES, (False, True)):
        masked = detach and SURROGATES[surrogate] is Rectangle
        rule = FireRule(surrogate=SURROGATES[surrogate](), detach_reset=detach)
        assert kept_bytes(rule) == (bits if masked else whole)
    assert kept_bytes(FireRule(surrogate=Rectangle(), detach_reset=True, higher=(2.0, 3.0))) == 3 * bits
    assert kept_bytes(IntegerRule(levels=4)) == whole
    learned = torch.tensor(0.25, requires_grad=True)
    assert kept_bytes(FireRule(surrogate=Rectangle(), detach_reset=True), learned) == whole


def test_without_a_gradient_no_masks_are_written(monkeypatch):
    """Not even where weights and current would take one."""
    asked = []
    for module in (cpu_leaky_fire, cpu_norm_fire):
        monkeypatch.setattr(module, "room_for_masks", lambda *_: asked.append(True))
    neuron = make_neuron("lif", surrogate=Rectangle(1.0), detach_reset=True)
    x = images(2, 4).requires_grad_()
    weight = torch.ones(4, requires_grad=True)
    for needs in (False, True):
        with use_backend("cpu"), torch.set_grad_enabled(needs):
            leaky_fire(x, decay=0.25, gain=1.0, rule=neuron.rule)
            norm_fire(x, weight, torch.zeros(4), 1e-5, skip=images(2, 4), firing=firing_of(neuron))
        assert asked == [True, True] * needs

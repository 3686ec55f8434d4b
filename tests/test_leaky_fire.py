from itertools import product

import pytest
import torch

from helpers import dyadic
from isospike.errors import ConfigError, ShapeError
from isospike.ops import FireRule, leaky_fire
from isospike.surrogates import SURROGATES, Rectangle, Triangle

pytestmark = pytest.mark.usefixtures("each_backend")

RULES = [
    FireRule(v_threshold=0.5, reset=reset, surrogate=Triangle(1.0), detach_reset=detach, strict=strict)
    for reset, detach, strict in product(("to_value", "subtract"), (False, True), (False, True))
] + [FireRule(v_threshold=0.5, v_reset=-0.25, surrogate=Triangle(1.0))]


def scalar_neuron(x, v, decay, gain, rule):
    """One neuron in plain numbers: an independent reading of the rule. Returns spikes, potentials before reset, v."""
    spikes, before = [], []
    for current in x:
        h = decay * v + gain * current
        s = float(h > rule.v_threshold if rule.strict else h >= rule.v_threshold)
        v = h - s * rule.v_threshold if rule.reset == "subtract" else (rule.v_reset if s else h)
        spikes.append(s)
        before.append(h)
    return spikes, before, v


def scalar_backward(ds, dv, spikes, before, decay, gain, rule):
    """Backpropagation through time by the chain rule on paper: gradients of x, v(0), decay and gain parts."""
    dx, dh_by_step = [], []
    for g, s, h in zip(reversed(ds), reversed(spikes), reversed(before), strict=True):
        slope = rule.surrogate.derivative(torch.tensor(h - rule.v_threshold, dtype=torch.float64)).item()
        kept = 1.0 if rule.reset == "subtract" else 1 - s
        through_reset = -rule.v_threshold if rule.reset == "subtract" else rule.v_reset - h
        dh = g * slope + dv * (kept + (0.0 if rule.detach_reset else slope * through_reset))
        dx.append(gain * dh)
        dh_by_step.append(dh)
        dv = decay * dh
    return dx[::-1], dv, dh_by_step[::-1]


def test_values_by_hand():
    """decay 1/4, threshold 1/2, strict, reset to 0: h = 0.25, 0.5625, 0.5, 0.625."""
    x = torch.tensor([0.25, 0.5, 0.5, 0.5]).view(4, 1, 1)
    rule = FireRule(v_threshold=0.5, strict=True)
    s, v = leaky_fire(x, decay=0.25, gain=1.0, rule=rule)
    assert s.flatten().tolist() == [0, 1, 0, 1]
    assert v.item() == 0
    s, v = leaky_fire(x, decay=0.25, gain=1.0, rule=FireRule(v_threshold=0.5, reset="subtract"))
    # h = 0.25; 0.5625 fires, 0.0625 left; 0.515625 fires, 0.015625 left; 0.50390625 fires, 0.00390625 left
    assert s.flatten().tolist() == [0, 1, 1, 1]
    assert v.item() == 0.00390625


@pytest.mark.parametrize("rule", RULES, ids=str)
@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 2, 63), (4, 1, 130), (7, 3, 2, 5, 3)], ids=str)
def test_equals_single_neurons_in_plain_numbers(rule, shape):
    x, v = dyadic(*shape), dyadic(*shape[1:])
    s, after = leaky_fire(x, v, decay=0.25, gain=0.5, rule=rule)
    assert s.shape == x.shape
    flat = zip(x.flatten(1).unbind(1), v.flatten(), s.flatten(1).unbind(1), after.flatten(), strict=True)
    for x_n, v_n, s_n, after_n in flat:
        spikes, _, end = scalar_neuron(x_n.tolist(), v_n.item(), 0.25, 0.5, rule)
        assert s_n.tolist() == spikes
        assert after_n.item() == end


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_gradients_equal_the_chain_rule_on_paper(rule):
    T, N, decay, gain = 6, 40, 0.25, 0.5
    x = dyadic(T, N, dtype=torch.float64).requires_grad_()
    v = dyadic(N, dtype=torch.float64).requires_grad_()
    d = torch.tensor(decay, dtype=torch.float64, requires_grad=True)
    g = torch.tensor(gain, dtype=torch.float64, requires_grad=True)
    ds, dv_end = torch.randn(T, N, dtype=torch.float64), torch.randn(N, dtype=torch.float64)
    s, end = leaky_fire(x, v, decay=d, gain=g, rule=rule)
    ((s * ds).sum() + (end * dv_end).sum()).backward()

    d_decay = d_gain = 0.0
    for n in range(N):
        x_n, v_n = x[:, n].tolist(), v[n].item()
        spikes, before, _ = scalar_neuron(x_n, v_n, decay, gain, rule)
        dx, dv, dh = scalar_backward(ds[:, n].tolist(), dv_end[n].item(), spikes, before, decay, gain, rule)
        torch.testing.assert_close(x.grad[:, n], torch.tensor(dx, dtype=torch.float64))
        torch.testing.assert_close(v.grad[n].item(), dv)
        carried = [v_n] + [
            h - s_t * rule.v_threshold if rule.reset == "subtract" else (rule.v_reset if s_t else h)
            for h, s_t in zip(before, spikes, strict=True)
        ]
        d_decay += sum(a * b for a, b in zip(dh, carried[:-1], strict=True))
        d_gain += sum(a * b for a, b in zip(dh, x_n, strict=True))
    torch.testing.assert_close(d.grad.item(), d_decay)
    torch.testing.assert_close(g.grad.item(), d_gain)


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_chunks_with_carried_state_equal_the_whole(rule):
    x = torch.randn(6, 3, 17)
    whole, end = leaky_fire(x, decay=0.3, gain=0.7, rule=rule)
    for cuts in ((2, 4), (1, 1, 1, 1, 1, 1), (5, 1)):
        parts, v = [], None
        for chunk in x.split(cuts):
            s, v = leaky_fire(chunk, v, decay=0.3, gain=0.7, rule=rule)
            parts.append(s)
        assert torch.equal(torch.cat(parts), whole)
        assert torch.equal(v, end)


@pytest.mark.parametrize("kind", SURROGATES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_potentials_stay_float32_for_half_precision_currents(kind, dtype):
    """Many small currents: a half-precision potential would stop growing long before the threshold."""
    x = torch.full((2000, 1, 1), 2.0**-9, dtype=dtype)
    s, v = leaky_fire(x, decay=1.0, gain=1.0, rule=FireRule(v_threshold=3.0, surrogate=SURROGATES[kind](1.0)))
    assert s.dtype == dtype
    assert v.dtype == torch.float32
    assert s.sum() == 1
    assert s[3 * 512 - 1] == 1


def test_potentials_stay_float32_under_autocast():
    conv = torch.nn.Conv2d(2, 2, 3, padding=1)
    with torch.autocast("cpu", torch.bfloat16):
        current = conv(torch.randn(4, 2, 6, 6)).unflatten(0, (2, 2))
        s, v = leaky_fire(current, decay=0.5, gain=0.5, rule=FireRule())
    assert current.dtype == s.dtype == torch.bfloat16
    assert v.dtype == torch.float32


@pytest.mark.parametrize("T", [1, 3])
def test_channels_last_stays_channels_last_in_both_passes(T):
    x = torch.randn(T * 2, 4, 6, 6).contiguous(memory_format=torch.channels_last).requires_grad_()
    s, v = leaky_fire(x.unflatten(0, (T, 2)), decay=0.25, gain=1.0, rule=FireRule())
    assert s.flatten(0, 1).is_contiguous(memory_format=torch.channels_last)
    assert v.is_contiguous(memory_format=torch.channels_last)
    s.sum().backward()
    assert x.grad.is_contiguous(memory_format=torch.channels_last)


def test_a_current_that_is_the_same_at_every_step_is_not_copied():
    x = torch.randn(1, 2, 5)
    static, _ = leaky_fire(x.expand(4, 2, 5), decay=0.5, gain=1.0, rule=FireRule(surrogate=Rectangle()))
    copied, _ = leaky_fire(x.repeat(4, 1, 1), decay=0.5, gain=1.0, rule=FireRule(surrogate=Rectangle()))
    assert torch.equal(static, copied)


@pytest.mark.parametrize(
    ("x", "v", "message"),
    [
        (torch.zeros(0, 2, 3), None, r"T >= 1, got \[0, 2, 3\]"),
        (torch.zeros(3), None, r"\[T, B, ...\] with T >= 1, got \[3\]"),
        (torch.zeros(2, 2, 3), torch.zeros(2, 4), r"shape of one step, \[2, 3\], got \[2, 4\]"),
    ],
)
def test_wrong_shapes_are_refused(x, v, message):
    with pytest.raises(ShapeError, match=message):
        leaky_fire(x, v, decay=0.5, gain=1.0, rule=FireRule())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"v_threshold": 0}, "v_threshold must be a number greater than 0, got 0"),
        ({"v_threshold": float("nan")}, "greater than 0, got nan"),
        ({"reset": "hard"}, "reset must be 'to_value' or 'subtract', got 'hard'"),
        ({"reset": "subtract", "v_reset": 0.1}, "a reset by subtraction has no v_reset"),
        ({"v_reset": 2.0}, "v_reset must be below v_threshold=1.0, got 2.0"),
    ],
)
def test_a_rule_that_makes_no_sense_is_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        FireRule(**options)

"""Neurons with several levels: values by hand, and gradients against the papers' formulas."""

import pytest
import torch

from helpers import dyadic
from isospike.neurons import ILIF, LIF, MLF
from isospike.surrogates import Rectangle

pytestmark = pytest.mark.usefixtures("each_backend")

RULE = {"decay": 0.25, "surrogate": Rectangle(1.0), "strict": True}
TWO_LEVELS = {**RULE, "levels": 2, "v_threshold": 0.5, "v_step": 1.0}


def test_multi_level_firing_by_hand():
    """Thresholds 1/2 and 3/2 on one current, each with its own potential.

    level 1: h = 0.75 fires; 0.25; 0.0625 + 1.75 fires; 0.5 does not (strict).
    level 2: h = 0.75; 0.1875 + 0.25 = 0.4375; 0.109375 + 1.75 = 1.859375 fires; 0.5.
    """
    x = torch.tensor([0.75, 0.25, 1.75, 0.5]).view(4, 1, 1)
    s, v = MLF(**TWO_LEVELS)(x)
    assert s.flatten().tolist() == [1, 0, 2, 0]
    assert v.flatten().tolist() == [0.5, 0.5]
    assert MLF(**{**TWO_LEVELS, "reset": "subtract"})(x[:1])[1].flatten().tolist() == [0.25, 0.75]
    assert MLF(**{**TWO_LEVELS, "reset": "subtract"})(x[2:3])[1].flatten().tolist() == [1.25, 0.25]


@pytest.mark.parametrize("levels", [1, 2, 3])
def test_multi_level_firing_is_a_sum_of_neurons(levels):
    x, v = dyadic(5, 3, 7, high=4.0), dyadic(levels, 3, 7)
    s, end = MLF(**{**TWO_LEVELS, "levels": levels})(x, v if levels > 1 else v[0])
    parts = [LIF(v_threshold=0.5 + k, **RULE)(x, v[k]) for k in range(levels)]
    assert torch.equal(s, torch.stack([p[0] for p in parts]).sum(0))
    assert torch.equal(end.view(levels, 3, 7), torch.stack([p[1] for p in parts]))


@pytest.mark.parametrize("levels", [1, 2, 3])
def test_gradient_of_multi_level_firing_is_the_closed_form(levels):
    """dL/du_k[t] = g[t] h_k + dL/du_k[t+1] decay ((1 - s_k) - u_k h_k);  dL/dx[t] = sum_k dL/du_k[t]."""
    T, N, decay = 6, 50, 0.25
    x = dyadic(T, 1, N, high=4.0, dtype=torch.float64).requires_grad_()
    neuron = MLF(levels=levels, surrogate="rectangle", strict=True)
    s, _ = neuron(x)
    g = torch.randn(T, 1, N, dtype=torch.float64)
    (dx,) = torch.autograd.grad(s, x, g)

    expected = torch.zeros_like(x)
    for k in range(levels):
        threshold, u, spikes, potentials = 0.6 + k, torch.zeros(1, N).double(), [], []
        spike = torch.zeros(1, N).double()
        for t in range(T):
            u = decay * u * (1 - spike) + x[t].detach()
            spike = (u > threshold).double()
            potentials.append(u)
            spikes.append(spike)
        carried = torch.zeros(1, N).double()
        for t in reversed(range(T)):
            window = ((potentials[t] - threshold).abs() < 0.5).double()
            carried = g[t] * window + carried * decay * ((1 - spikes[t]) - potentials[t] * window)
            expected[t] += carried
    torch.testing.assert_close(dx, expected)


def test_integer_firing_by_hand():
    """decay 1/4, 3 levels: h = 1.75 -> 2, keeps -0.25; -0.0625 + 5 -> 3 of at most 3, keeps 1.9375; 0.484375 -> 0."""
    x = torch.tensor([1.75, 5.0, 0.0]).view(3, 1, 1)
    s, v = ILIF(levels=3)(x)
    assert s.flatten().tolist() == [2, 3, 0]
    assert v.item() == 0.484375
    assert ILIF(levels=3, v_threshold=0.5)(x)[0].flatten().tolist() == [3, 3, 2]


def test_gradient_of_integer_firing_goes_straight_through_where_it_is_not_cut():
    """The reset is detached: dL/dh[t] = g[t] [0 <= h <= levels] / V + decay dL/dh[t+1]."""
    T, N = 5, 60
    x = dyadic(T, 1, N, low=-2.0, high=4.0, dtype=torch.float64)
    x[0, 0, :2] = torch.tensor([0.0, 1.5])  # the ends of the window belong to it
    x.requires_grad_()
    s, _ = ILIF(levels=3, v_threshold=0.5)(x)
    g = torch.randn(T, 1, N, dtype=torch.float64)
    (dx,) = torch.autograd.grad(s, x, g)
    v, potentials = torch.zeros(1, N).double(), []
    for t in range(T):
        h = 0.25 * v + x[t].detach()
        v = h - 0.5 * (h / 0.5).clamp(0, 3).round()
        potentials.append(h)
    carried = torch.zeros(1, N).double()
    for t in reversed(range(T)):
        inside = ((potentials[t] >= 0) & (potentials[t] <= 1.5)).double()
        carried = g[t] * inside / 0.5 + 0.25 * carried
        torch.testing.assert_close(dx[t], carried)

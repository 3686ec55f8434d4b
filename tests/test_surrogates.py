import math
import re
from dataclasses import fields
from pathlib import Path

import pytest
import torch

import isospike
from isospike.errors import ConfigError, UnknownName
from isospike.ops import FireRule
from isospike.ops.cpu.refusals import refused_rule as cpu_refused_rule
from isospike.ops.gpu.leaky_fire import refused_rule as gpu_refused_rule
from isospike.registry import build
from isospike.surrogates import SURROGATES, Arctan, Rectangle, Sigmoid, Triangle, fire

WIDTHS = (0.5, 1.0, 2.0, 4.0)
OPS = Path(isospike.__file__).parent / "ops"


ALL = [pytest.param(SURROGATES[kind](width), id=f"{kind}-{width}") for kind in SURROGATES for width in WIDTHS]


@pytest.mark.parametrize("surrogate", ALL)
def test_derivative_is_that_of_the_primitive(surrogate):
    # Off the grid of kinks, so that a one-sided derivative cannot hide.
    u = (torch.linspace(-3, 3, 601, dtype=torch.float64) + 0.00317).requires_grad_()
    (slope,) = torch.autograd.grad(surrogate.primitive(u).sum(), u)
    torch.testing.assert_close(surrogate.derivative(u), slope, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("surrogate", ALL)
def test_primitive_rises_from_0_to_1_with_a_half_at_the_threshold(surrogate):
    u = torch.tensor([-1e6, 0.0, 1e6], dtype=torch.float64)
    torch.testing.assert_close(
        surrogate.primitive(u), torch.tensor([0, 0.5, 1], dtype=torch.float64), atol=1e-5, rtol=0
    )


@pytest.mark.parametrize("surrogate", ALL)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_derivative_never_overflows(surrogate, dtype):
    largest = torch.finfo(dtype).max
    u = torch.tensor([-largest, -1000, -10, 0, 10, 1000, largest], dtype=dtype)
    slope = surrogate.derivative(u)
    assert slope.dtype == dtype
    assert slope.isfinite().all()
    assert (slope >= 0).all()
    assert slope[3] > 0


def test_values_by_hand():
    u = torch.tensor([0.0, 0.25, 0.5, 1.0], dtype=torch.float64)
    by_hand = {
        Rectangle(1.0): [1, 1, 0, 0],
        Rectangle(2.0): [0.5, 0.5, 0.5, 0],
        Arctan(2.0): [1, 1 / (1 + math.pi**2 / 16), 1 / (1 + math.pi**2 / 4), 1 / (1 + math.pi**2)],
        Triangle(1.0): [1, 0.75, 0.5, 0],
        Triangle(2.0): [0.5, 0.4375, 0.375, 0.25],
        Sigmoid(4.0): [4 * math.exp(-4 * x) / (1 + math.exp(-4 * x)) ** 2 for x in u.tolist()],
    }
    for surrogate, slopes in by_hand.items():
        expected = torch.tensor(slopes, dtype=torch.float64)
        torch.testing.assert_close(surrogate.derivative(u), expected, msg=lambda m, s=surrogate: f"{s}: {m}")


def test_fire_is_the_step_forward_and_the_surrogate_backward():
    u = torch.tensor([-0.25, 0.0, 0.25], requires_grad=True)
    for strict, spikes in ((True, [0, 0, 1]), (False, [0, 1, 1])):
        s = fire(u, Triangle(1.0), strict=strict)
        assert s.tolist() == spikes
        (grad,) = torch.autograd.grad((s * torch.tensor([1.0, 2.0, 3.0])).sum(), u)
        assert grad.tolist() == [0.75, 2.0, 2.25]


@pytest.mark.parametrize("kind", SURROGATES)
def test_a_width_of_0_is_refused(kind):
    with pytest.raises(ConfigError, match="must be greater than 0, got 0"):
        SURROGATES[kind](0)


def test_a_wrong_name_or_option_is_answered_with_the_nearest():
    with pytest.raises(UnknownName, match="unknown surrogate 'arctang'; nearest: arctan"):
        build(SURROGATES, "arctang")
    with pytest.raises(UnknownName, match="'alfa'; nearest: alpha"):
        build(SURROGATES, {"kind": "sigmoid", "alfa": 1})
    with pytest.raises(ConfigError, match="a surrogate is given as a name or as"):
        build(SURROGATES, {"alpha": 1})


@pytest.mark.parametrize("kind", SURROGATES)
def test_a_kernel_names_what_the_sources_of_the_backends_have(kind):
    kernel = SURROGATES[kind].kernel
    (numbers,) = re.findall(r"enum surrogate \{(.*)\};", (OPS / "cpu/csrc/rule.h").read_text())
    assert numbers.split(",")[kernel.c].strip().lower() == kind
    assert f"\ndef {kernel.triton}(u," in (OPS / "gpu/kernels/rule.py").read_text()
    assert [kernel.parameter] == [field.name for field in fields(SURROGATES[kind])]


@pytest.mark.parametrize("refused_rule", [cpu_refused_rule, gpu_refused_rule], ids=["cpu", "triton"])
@pytest.mark.parametrize("kind", SURROGATES)
def test_a_backend_runs_what_has_a_kernel_and_refuses_what_inherits_from_it(refused_rule, kind):
    class Own(SURROGATES[kind]):
        """May have another derivative."""

    assert refused_rule(FireRule(surrogate=SURROGATES[kind]())) is None
    assert refused_rule(FireRule(surrogate=Own())) == "it does not know the surrogate Own"
    assert not FireRule(surrogate=Own(), detach_reset=True).masks_suffice

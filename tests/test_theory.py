"""The formulas of block dynamical isometry, against Jacobians that are built."""

import math

import pytest
import torch
from torch import nn

from isospike.analysis import theory
from isospike.analysis.theory import IDENTITY, Moments, Part
from isospike.surrogates import Rectangle


def moments_of(jacobian):
    """phi and varphi of a matrix, from its eigenvalues."""
    eigenvalues = torch.linalg.eigvalsh(jacobian.double() @ jacobian.double().T)
    return Moments(eigenvalues.mean().item(), eigenvalues.var(correction=0).item())


def gaussian(rows, columns, scale=1.0):
    return scale * torch.randn(rows, columns, dtype=torch.float64) / math.sqrt(columns)


def jacobian_of(f, shape):
    x = torch.randn(shape, dtype=torch.float64)
    return torch.autograd.functional.jacobian(lambda x: f(x).flatten(), x).flatten(1)


def test_a_rectifier_and_a_neuron_are_diagonal():
    x = torch.randn(1000, dtype=torch.float64)
    p = (x > 0).double().mean().item()
    assert theory.rectifier(p) == pytest.approx(moments_of(torch.diag((x > 0).double())))
    rectangle = Rectangle(width=0.5)
    inside = (x.abs() < 0.25).double().mean().item()
    assert theory.neuron(inside, 0.5) == pytest.approx(moments_of(torch.diag(rectangle.derivative(x))))
    assert theory.slopes(rectangle.derivative(x)) == pytest.approx(theory.neuron(inside, 0.5))
    assert theory.neuron(0.3) == theory.rectifier(0.3) == pytest.approx((0.3, 0.21))


@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (3, 1), (1, 2), (3, 2)])
def test_a_convolution_far_from_the_border(kernel, stride):
    """Circular padding has no border."""
    conv = nn.Conv2d(
        24, 16, kernel, stride, padding=kernel // 2, bias=False, padding_mode="circular" if kernel > 1 else "zeros"
    )
    conv.double()
    nn.init.normal_(conv.weight, std=0.1)
    found = moments_of(jacobian_of(conv, (1, 24, 6, 6)))
    expected = theory.convolution(24, 16, (kernel, kernel), 0.01, stride=stride)
    assert expected.phi == pytest.approx(24 * kernel**2 * 0.01)
    assert found.phi == pytest.approx(expected.phi, rel=0.05)
    assert found.varphi == pytest.approx(expected.varphi, rel=0.12)


def test_a_convolution_with_its_norm_on_inputs_without_a_mean():
    conv = nn.Conv2d(32, 16, 3, padding=1, bias=False, padding_mode="circular").double()
    x = torch.randn(64, 32, 8, 8, dtype=torch.float64)
    y = conv(x)
    factor = 0.5 / y.std((0, 2, 3), correction=0)
    fold = jacobian_of(lambda x: conv(x) * factor.view(-1, 1, 1), (1, 32, 8, 8))
    expected = theory.normed_convolution(1.0, 0.25, 32, 16, (3, 3))
    assert expected == pytest.approx((0.25, 0.25**2 / 2))
    assert moments_of(fold) == pytest.approx(expected, rel=0.12)


def test_an_orthogonal_matrix_and_an_average_pool_have_no_variance():
    matrix, _ = torch.linalg.qr(gaussian(20, 20))
    assert moments_of(3 * matrix) == pytest.approx(theory.orthogonal(3.0), abs=1e-9)
    assert moments_of(jacobian_of(nn.AvgPool2d(2), (1, 3, 4, 4))) == pytest.approx(theory.average_pool(2), abs=1e-12)


def test_serial_and_parallel_by_hand():
    parts = [Part(Moments(2.0, 1.0), 10), Part(Moments(0.5, 0.25), 20)]
    assert theory.serial(parts) == pytest.approx((1.0, 20 / 10 * 1 / 4 + 0.25 / 0.25))
    assert theory.serial([]) == IDENTITY
    assert theory.serial([*parts, Part(Moments(0.0, 0.0), 5)]) == (0.0, 0.0)
    assert theory.parallel([IDENTITY, Moments(0.5, 0.2)]) == pytest.approx((1.5, 2 * 0.5 + 0.2))
    assert theory.parallel([IDENTITY]) == IDENTITY


def test_the_rules_hold_for_large_random_matrices():
    sizes = (700, 500, 800)
    first, second = gaussian(sizes[1], sizes[0], 1.3), gaussian(sizes[2], sizes[1], 0.8)
    gate = (torch.rand(sizes[2]) < 0.4).double()
    parts = [Part(moments_of(first), sizes[1]), Part(moments_of(second), sizes[2]), Part(theory.rectifier(0.4), 800)]
    assert moments_of(gate[:, None] * (second @ first)) == pytest.approx(theory.serial(parts), rel=0.1)
    square = gaussian(600, 600, 0.7)
    both = theory.parallel([IDENTITY, moments_of(square)])
    assert moments_of(torch.eye(600) + square) == pytest.approx(both, rel=0.1)


def test_units_by_hand_and_as_matrices():
    inner = Moments(0.8, 0.5)
    assert theory.membrane_unit(0.0, inner) == (1.0, 0.0)
    assert theory.membrane_unit(0.5, inner).phi == pytest.approx(1 + 0.25 * 0.8)
    assert theory.gated_unit(theory.neuron(0.4), inner).phi == pytest.approx(0.4 * 1.8)
    assert theory.spike_added_unit(theory.neuron(0.4), inner).phi == pytest.approx(1 + 0.4 * 0.8)
    branch, gate = gaussian(600, 600, 0.9), (torch.rand(600) < 0.4).double()
    found, eye = moments_of(branch), torch.eye(600)
    open_share = theory.neuron(gate.mean().item())
    assert moments_of(eye + 0.5 * branch) == pytest.approx(theory.membrane_unit(0.5, found), rel=0.1)
    assert moments_of(gate[:, None] * (eye + branch)) == pytest.approx(theory.gated_unit(open_share, found), rel=0.1)
    added = theory.spike_added_unit(open_share, found)
    assert moments_of(eye + gate[:, None] * branch) == pytest.approx(added, rel=0.1)

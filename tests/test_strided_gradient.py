"""The gradient of the input of a convolution of stride 2, one kind of pixel at a time, is the gradient."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from helpers import dyadic
from isospike.ops import packed_conv
from isospike.ops.conv2d import Convolution
from isospike.ops.cpu import packed_conv as cpu_packed_conv
from isospike.ops.cpu.strided_gradient import has_strided_gradient, strided_gradient

pytestmark = pytest.mark.compiled
# Samples, channels, height and width of the input, filters: single pixels, odd and even lengths, blocks of one and two
# vectors, rows longer than are done at a time, and many of them.
SHAPES = [
    (1, 16, 1, 1, 16),
    (2, 16, 2, 1, 48),
    (3, 32, 7, 6, 16),
    (2, 48, 6, 7, 32),
    (5, 16, 8, 8, 80),
    (1, 16, 3, 261, 64),
    (16, 64, 14, 14, 16),
    (70, 32, 4, 3, 32),
]


def strided(kernel):
    return Convolution((2, 2), (kernel // 2,) * 2, (1, 1), 1)


def make(make_tensor, shape, kernel):
    """Weight and the gradient of the output, channels-last."""
    N, C, H, W, filters = shape
    tensors = make_tensor(filters, C, kernel, kernel), make_tensor(N, filters, (H + 1) // 2, (W + 1) // 2)
    return [t.contiguous(memory_format=torch.channels_last) for t in tensors]


def expected(g, weight, shape):
    N, C, H, W, _ = shape
    x = torch.zeros(N, C, H, W, dtype=g.dtype).requires_grad_()
    return torch.autograd.grad(F.conv2d(x, weight, None, 2, weight.shape[-1] // 2), x, g)[0]


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.usefixtures("each_isa")
def test_sums_are_exact_where_they_can_be(shape, kernel):
    weight, g = make(dyadic, shape, kernel)
    d_x = strided_gradient(g, weight, shape[2:4])
    assert torch.equal(d_x, expected(g, weight, shape))
    assert d_x.is_contiguous(memory_format=torch.channels_last)
    plain = strided_gradient(g.contiguous(), weight.contiguous(), shape[2:4])  # weights in another order of memory
    assert torch.equal(plain, d_x)


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("channels", [16, 64, 256])
@pytest.mark.usefixtures("each_isa")
def test_it_rounds_no_more_than_the_plain_sums(channels, kernel):
    shape = (2, channels, 9, 10, channels)
    weight, g = make(torch.randn, shape, kernel)
    exact = expected(g.double(), weight.double(), shape)
    ours, plain = ((d - exact).norm() for d in (strided_gradient(g, weight, (9, 10)), expected(g, weight, shape)))
    assert 0 < ours < 1.5 * plain


@pytest.mark.usefixtures("each_isa")
def test_bits_depend_neither_on_threads_nor_on_the_batch():
    weight, g = make(torch.randn, (40, 32, 14, 14, 32), 3)
    one = strided_gradient(g, weight, (14, 14))
    torch.set_num_threads(3)
    try:
        assert torch.equal(strided_gradient(g, weight, (14, 14)), one)
    finally:
        torch.set_num_threads(1)
    alone = g[4:5].contiguous(memory_format=torch.channels_last)
    assert torch.equal(strided_gradient(alone, weight, (14, 14)), one[4:5])


def test_what_it_has(monkeypatch):
    def has(weight, g, **other):
        g = g.contiguous(memory_format=torch.channels_last)
        return has_strided_gradient(weight, strided(weight.shape[-1])._replace(**other), g)

    weight, g = torch.zeros(32, 16, 3, 3), torch.zeros(2, 32, 16, 16)
    monkeypatch.setattr("isospike.ops.cpu.strided_gradient.lanes", lambda: 16)
    assert has(weight, g)
    assert has(torch.zeros(32, 16, 1, 1), g)
    assert not has_strided_gradient(weight, strided(3), g)
    assert not has(weight, g[:, :, 1:])  # 480 pixels are too few
    assert not has(torch.zeros(32, 8, 3, 3), g)
    assert not has(torch.zeros(40, 16, 3, 3), torch.zeros(2, 40, 16, 16))
    for size in ((5, 5), (3, 1)):
        assert not has(torch.zeros(32, 16, *size), g)
    for other in ({"stride": (1, 1)}, {"stride": (2, 1)}, {"padding": (0, 0)}, {"dilation": (2, 2)}, {"groups": 2}):
        assert not has(weight, g, **other)
    monkeypatch.setattr("isospike.ops.cpu.strided_gradient.lanes", lambda: 8)
    assert has(torch.zeros(40, 8, 3, 3), torch.zeros(2, 40, 16, 16))
    monkeypatch.setattr("isospike.ops.cpu.strided_gradient.lanes", lambda: 0)
    assert not has(weight, g)


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize(("memory", "calls"), [(torch.channels_last, 1), (torch.contiguous_format, 0)], ids=str)
def test_training_takes_it(memory, calls, kernel, monkeypatch):
    seen = []
    monkeypatch.setattr(cpu_packed_conv, "strided_gradient", lambda *a: seen.append(a) or strided_gradient(*a))
    conv = nn.Conv2d(16, 32, kernel, stride=2, padding=kernel // 2).to(memory_format=memory)
    x = (torch.rand(2, 16, 32, 31) < 0.2).float().contiguous(memory_format=memory).requires_grad_()
    g = torch.randn(2, 32, 16, 16).contiguous(memory_format=memory)
    inputs = [x, *conv.parameters()]
    y, true = packed_conv(conv, x), conv(x)
    for a, b in zip(torch.autograd.grad(y, inputs, g), torch.autograd.grad(true, inputs, g), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-4)
    assert len(seen) == calls

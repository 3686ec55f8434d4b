"""Dense convolutions with fewer products give what those with all of them give."""

from itertools import product

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import isospike as iso
from helpers import dyadic, enliven
from isospike.inference import convolution
from isospike.ops import packed_conv
from isospike.ops.conv2d import Convolution
from isospike.ops.cpu import packed_conv as cpu_packed_conv
from isospike.ops.cpu import winograd
from isospike.ops.cpu.winograd import has_winograd, winograd_conv, winograd_input_gradient, winograd_weight

pytestmark = pytest.mark.compiled
# Samples, channels, height, width, filters: maps smaller than a square, odd ones, blocks of one and two vectors, more
# squares in a row than are done at a time, and more rows.
SHAPES = [
    (1, 16, 1, 1, 16),
    (2, 16, 1, 6, 48),
    (3, 32, 7, 1, 16),
    (2, 48, 5, 7, 32),
    (5, 16, 8, 8, 80),
    (1, 16, 3, 131, 64),
    (1, 64, 90, 10, 16),
    (70, 32, 2, 2, 32),
]
PLAIN = Convolution((1, 1), (1, 1), (1, 1), 1)


def make(make_tensor, shape):
    """Input, weight, bias and the gradient of the output, channels-last."""
    N, C, H, W, filters = shape
    tensors = (
        make_tensor(N, C, H, W),
        make_tensor(filters, C, 3, 3),
        make_tensor(filters),
        make_tensor(N, filters, H, W),
    )
    return [t.contiguous(memory_format=torch.channels_last) if t.dim() == 4 else t for t in tensors]


def impulses(*shape):
    """Of a square about four, over all channels: their sums fit 24 bits, however far the transforms stretch them."""
    return (torch.rand(shape) < 0.1 / shape[1]).float() * torch.randint(1, 3, shape)


def exact_weights(*shape):
    """Their transform for squares of 4x4, which divides by 3 and 15 along each side, is exact."""
    return 15 * 15 * torch.randint(-2, 3, shape).float()


def run(x, weight, bias):
    return winograd_conv(x, winograd_weight(weight, bias))


def input_gradient(x, weight, g):
    x = torch.zeros_like(x).requires_grad_()
    return torch.autograd.grad(F.conv2d(x, weight, None, 1, 1), x, g)[0]


def plain_sums(x, weight, bias):
    """A convolution, one product at a time."""
    H, W = x.shape[2:]
    x, total = F.pad(x, [1] * 4), torch.zeros(len(x), len(weight), H, W)
    for c, i, j in product(range(weight.shape[1]), range(3), range(3)):
        total += x[:, c, None, i : i + H, j : j + W] * weight[:, c, i, j].view(-1, 1, 1)
    return total + torch.as_tensor(bias).view(-1, 1, 1)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.usefixtures("each_isa")
def test_sums_are_exact_where_they_can_be(shape):
    x, weight, bias, _ = make(dyadic, shape)
    assert has_winograd(weight, PLAIN)
    y = run(x, weight, bias)
    assert torch.equal(y, F.conv2d(x, weight, bias, 1, 1))
    assert torch.equal(run(x, weight, None), F.conv2d(x, weight, None, 1, 1))
    assert y.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("shape", [*SHAPES, (3, 16, 4, 4, 32), (2, 16, 13, 30, 16)], ids=str)
@pytest.mark.usefixtures("each_isa")
def test_gradients_are_exact_where_they_can_be(shape):
    N, C, H, W, filters = shape
    g = impulses(N, filters, H, W).index_fill(1, torch.tensor([0]), 1.0).contiguous(memory_format=torch.channels_last)
    weight = exact_weights(filters, C, 3, 3)
    d_x = winograd_input_gradient(g, weight)
    assert torch.equal(d_x, input_gradient(torch.zeros(N, C, H, W), weight, g))
    assert d_x.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("memory", [torch.channels_last, torch.contiguous_format], ids=str)
@pytest.mark.usefixtures("each_isa")
def test_every_memory_order_is_read(memory):
    x, weight, bias, _ = (t.contiguous(memory_format=memory) if t.dim() == 4 else t for t in make(dyadic, SHAPES[3]))
    bias = bias.repeat_interleave(2)[::2]  # with gaps
    assert torch.equal(run(x, weight, bias), F.conv2d(x, weight, bias, 1, 1))
    g, weight = (t.contiguous(memory_format=memory) for t in (impulses(2, 32, 7, 9), exact_weights(32, 48, 3, 3)))
    assert torch.equal(winograd_input_gradient(g, weight), input_gradient(torch.zeros(2, 48, 7, 9), weight, g))


@pytest.mark.parametrize("channels", [16, 64, 256])
@pytest.mark.usefixtures("each_isa")
def test_it_rounds_no_more_than_the_plain_sums_and_larger_squares_a_few_times_as_much(channels):
    """One product after the other, each rounded, and so is the sum behind it; PyTorch's order differs by machine."""
    x, weight, bias, g = make(torch.randn, (2, channels, 9, 9, channels))
    exact = F.conv2d(x.double(), weight.double(), bias.double(), 1, 1)
    ours, plain = ((y - exact).norm() for y in (run(x, weight, bias), plain_sums(x, weight, bias)))
    assert 0 < ours < plain
    exact = input_gradient(x.double(), weight.double(), g.double())
    flipped = weight.transpose(0, 1).flip(2, 3)
    ours, plain = ((d - exact).norm() for d in (winograd_input_gradient(g, weight), plain_sums(g, flipped, 0)))
    assert 0 < ours < 4 * plain


@pytest.mark.parametrize(
    ("size", "side"), [((1, 1), 2), ((2, 9), 2), ((4, 4), 4), ((5, 5), 2), ((7, 7), 4), ((32, 32), 4)]
)
def test_gradients_take_the_squares_of_fewer_products(size, side, monkeypatch):
    weights, original = [], winograd.winograd_conv
    monkeypatch.setattr(winograd, "winograd_conv", lambda g, weight: weights.append(weight) or original(g, weight))
    winograd_input_gradient(torch.randn(1, 32, *size), torch.randn(32, 16, 3, 3))
    assert [weight.side for weight in weights] == [side]
    assert winograd_weight(torch.randn(32, 16, 3, 3), None).side == 2


@pytest.mark.usefixtures("each_isa")
def test_bits_depend_neither_on_threads_nor_on_the_batch():
    x, weight, bias, g = make(torch.randn, (9, 32, 7, 9, 32))
    for maps, convolve in ((x, lambda x: run(x, weight, bias)), (g, lambda g: winograd_input_gradient(g, weight))):
        one = convolve(maps)
        torch.set_num_threads(3)
        try:
            assert torch.equal(convolve(maps), one)
        finally:
            torch.set_num_threads(1)
        alone = maps[4:5].contiguous(memory_format=torch.channels_last)
        assert torch.equal(convolve(alone), one[4:5])


def test_what_it_has(monkeypatch):
    weight = torch.zeros(32, 16, 3, 3)
    monkeypatch.setattr("isospike.ops.cpu.winograd.lanes", lambda: 16)
    assert has_winograd(weight, PLAIN)
    assert not has_winograd(torch.zeros(32, 8, 3, 3), PLAIN)
    assert not has_winograd(torch.zeros(40, 16, 3, 3), PLAIN)
    assert not has_winograd(torch.zeros(32, 16, 1, 1), PLAIN)
    for other in ({"stride": (2, 2)}, {"padding": (0, 0)}, {"dilation": (2, 2)}, {"groups": 2}):
        assert not has_winograd(weight, PLAIN._replace(**other))
    monkeypatch.setattr("isospike.ops.cpu.winograd.lanes", lambda: 8)
    assert has_winograd(torch.zeros(40, 8, 3, 3), PLAIN)
    monkeypatch.setattr("isospike.ops.cpu.winograd.lanes", lambda: 0)
    assert not has_winograd(weight, PLAIN)


@pytest.mark.parametrize(
    ("share", "memory", "size", "outputs", "gradients"),
    [
        (0.2, torch.channels_last, 16, 0, 1),  # few spikes: their sum is faster
        (0.5, torch.channels_last, 16, 1, 1),
        (0.5, torch.contiguous_format, 16, 0, 0),
        (0.5, torch.channels_last, 11, 0, 0),  # 2 * 11 * 11 pixels are too few
    ],
)
def test_training_takes_it_for_what_is_dense(share, memory, size, outputs, gradients, monkeypatch):
    calls = []
    for name in ("winograd_conv", "winograd_input_gradient"):
        original = getattr(winograd, name)
        monkeypatch.setattr(cpu_packed_conv, name, lambda *a, n=name, f=original: calls.append(n) or f(*a))
    conv = nn.Conv2d(16, 32, 3, padding=1).to(memory_format=memory)
    x = (torch.rand(2, 16, size, size) < share).float().contiguous(memory_format=memory).requires_grad_()
    g = torch.randn(2, 32, size, size).contiguous(memory_format=memory)
    inputs = [x, *conv.parameters()]
    y, true = packed_conv(conv, x), conv(x)
    ours, plain = (torch.autograd.grad(o, inputs, g) for o in (y, true))
    assert (calls.count("winograd_conv"), calls.count("winograd_input_gradient")) == (outputs, gradients)
    for a, b in zip((y, *ours), (true, *plain), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-4)


def test_an_input_that_needs_no_gradient_gets_none_and_frozen_weights_too():
    conv = nn.Conv2d(16, 16, 3, padding=1)
    x = torch.randn(2, 16, 16, 16).contiguous(memory_format=torch.channels_last)
    packed_conv(conv, x).sum().backward()
    assert x.grad is None
    assert conv.weight.grad is not None
    conv.requires_grad_(False).weight.grad = None
    packed_conv(conv, x.requires_grad_()).sum().backward()
    assert x.grad is not None
    assert conv.weight.grad is None


@pytest.mark.parametrize("name", ["sew_resnet14", "ds_resnet8"])  # deep ones have spikes that a last bit decides
def test_a_compiled_network_takes_it_for_counts_and_agrees(name, monkeypatch):
    calls, original = [], convolution.winograd_conv
    monkeypatch.setattr(convolution, "winograd_conv", lambda *a: calls.append(a) or original(*a))
    model = enliven(iso.create_model(name, T=2)).eval()
    x = torch.randn(4, 3, 16, 16).contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        torch.testing.assert_close(model.compile_for_inference()(x), model(x), rtol=1e-3, atol=1e-3)
    assert calls

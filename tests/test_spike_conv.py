"""Convolutions that add up only what fired give what dense ones give."""

import importlib

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import isospike as iso
from helpers import dyadic, enliven
from isospike.ops import packed_conv
from isospike.ops.cpu import spike_conv
from isospike.ops.cpu.packed_conv import applies
from isospike.ops.cpu.packing import Spikes, packed
from isospike.ops.cpu.spike_conv import (
    Convolution,
    groups_that_fit,
    has_spike_conv,
    integer_spike_weight,
    is_worth_it,
    spike_weight,
    weight_gradient,
)

pytestmark = pytest.mark.compiled
# Samples, channels, height, width, filters, kernel, stride: maps smaller than the kernel, filters and channels that
# fill no vector or word, several samples in a tile, maps of several tiles.
SHAPES = [
    (1, 8, 1, 1, 1, 3, 1),
    (3, 8, 5, 7, 3, 3, 1),
    (5, 16, 8, 8, 16, 3, 1),
    (2, 72, 9, 6, 40, 3, 1),
    (2, 136, 4, 4, 33, 3, 1),
    (40, 8, 4, 4, 16, 3, 1),
    (2, 16, 150, 70, 16, 3, 1),
    (3, 8, 5, 7, 3, 3, 2),
    (3, 16, 8, 8, 40, 3, 2),
    (2, 72, 9, 6, 70, 3, 2),
    (1, 16, 330, 131, 32, 3, 2),
    (1, 8, 1, 1, 1, 3, 2),
    (2, 8, 1, 9, 16, 3, 2),
    (2, 8, 9, 1, 16, 3, 2),
    (4, 64, 2, 2, 3, 1, 1),
    (2, 72, 9, 6, 70, 1, 1),
    (3, 64, 5, 7, 3, 1, 2),
    (2, 128, 16, 16, 64, 1, 2),
]


def make(shape, most):
    """Integers up to ``most``, a third of them not 0; weights and a gradient whose sums are exact."""
    N, C, H, W, filters, kernel, stride = shape
    x = torch.randint(1, most + 1, (N, C, H, W)) * (torch.rand(N, C, H, W) < 0.3)
    x = x.float().contiguous(memory_format=torch.channels_last)
    g = dyadic(N, filters, (H - 1) // stride + 1, (W - 1) // stride + 1)
    return x, dyadic(filters, C, kernel, kernel), g


def run(x, weight, bias, stride, onto=None):
    return spike_conv.spike_conv(packed(x), spike_weight(weight, bias, stride), onto)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("most", [1, 5])
@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format], ids=str)
@pytest.mark.usefixtures("each_isa")
def test_output_and_gradient_are_those_of_the_dense_convolution_to_the_bit(shape, most, memory_format):
    (x, weight, g), (*_, kernel, stride) = make(shape, most), shape
    weight, bias = weight.contiguous(memory_format=memory_format).requires_grad_(), dyadic(shape[4])
    assert has_spike_conv(weight, Convolution((stride,) * 2, (kernel // 2,) * 2, (1, 1), 1))
    true = F.conv2d(x, weight, bias, stride, kernel // 2)
    assert torch.equal(run(x, weight.detach(), bias, stride), true)
    assert torch.equal(run(x, weight.detach(), None, stride), F.conv2d(x, weight, None, stride, kernel // 2))
    (expected,) = torch.autograd.grad(true, weight, g)
    found = weight_gradient(packed(x), weight.detach(), g, stride)
    assert torch.equal(found, expected)
    assert found.stride() == weight.stride()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("table", [False, True])
@pytest.mark.parametrize("firing", [0.2, 1.0])
@pytest.mark.usefixtures("each_isa")
def test_sums_of_integers_are_exact_whatever_fires(shape, table, firing):
    """Also where all weights are as large as they can be and all neurons fire; scaled once, shifted once."""
    N, C, H, W, filters, kernel, stride = shape
    x = (torch.rand(N, C, H, W) < firing).float().contiguous(memory_format=torch.channels_last)
    weight = torch.randint(-127, 128, (filters, C, kernel, kernel), dtype=torch.int8)
    weight[::2] = 127
    weight[1::4] = -127
    scale, bias = torch.rand(filters), torch.randn(filters)
    sums = F.conv2d(x.double(), weight.double(), None, stride, kernel // 2)
    expected = sums.float() * scale.view(-1, 1, 1) + bias.view(-1, 1, 1)
    ordered = integer_spike_weight(weight, scale, bias, stride, table=table)
    assert torch.equal(spike_conv.spike_conv(packed(x), ordered), expected)
    onto = torch.randn_like(expected, memory_format=torch.channels_last)
    assert torch.equal(spike_conv.spike_conv(packed(x), ordered, onto.clone()), onto + expected)


def test_channels_are_added_up_together_as_long_as_16_bits_are_sure_to_hold_them():
    """9 weights of 127 for each channel: 28 of these fit, of which 24 are a multiple of 8."""
    weight = torch.full((2, 64, 3, 3), 127, dtype=torch.int8)
    assert groups_that_fit(weight) == [24, 48, 64]
    assert groups_that_fit(-weight) == [24, 48, 64]
    assert groups_that_fit(weight[:, :24]) == [24]
    weight[:, ::2] *= -1
    assert groups_that_fit(weight) == [56, 64]
    assert groups_that_fit(weight // 4) == [64]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.usefixtures("each_isa")
def test_a_table_of_sums_gives_the_output_to_the_bit(shape):
    (x, weight, _), (*_, kernel, stride) = make(shape, 1), shape
    bias = dyadic(shape[4])
    true = F.conv2d(x, weight, bias, stride, kernel // 2)
    assert torch.equal(spike_conv.spike_conv(packed(x), spike_weight(weight, bias, stride, table=True)), true)


@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format], ids=str)
@pytest.mark.usefixtures("each_isa")
def test_a_sum_is_added_to_in_place(memory_format):
    x, weight, onto = make((3, 16, 9, 9, 24, 3, 1), 1)
    onto = onto.contiguous(memory_format=memory_format)
    true = onto + F.conv2d(x, weight, None, 1, 1)
    out = run(x, weight, None, 1, onto)
    assert out is onto
    assert torch.equal(out, true)


@pytest.mark.usefixtures("each_isa")
def test_bits_depend_neither_on_threads_nor_on_the_other_samples():
    x, _, _ = make((24, 64, 16, 16, 32, 3, 1), 1)
    weight, g = torch.randn(32, 64, 3, 3), torch.randn(24, 32, 16, 16)
    once, gradient = run(x, weight, None, 1), weight_gradient(packed(x), weight, g, 1)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        assert torch.equal(run(x, weight, None, 1), once)
        assert torch.equal(weight_gradient(packed(x), weight, g, 1), gradient)
    finally:
        torch.set_num_threads(threads)
    for at in (0, 7, 23):
        assert torch.equal(run(x[at : at + 1], weight, None, 1)[0], once[at])


@pytest.mark.parametrize("most", [1, 3])
@pytest.mark.usefixtures("each_isa")
def test_training_takes_it_where_few_fire_and_rounds_as_little(most, monkeypatch):
    calls = []
    original = spike_conv.spike_conv
    module = importlib.import_module("isospike.ops.cpu.packed_conv")
    monkeypatch.setattr(module, "spike_conv", lambda *a: calls.append(a) or original(*a))
    conv = nn.Conv2d(16, 24, 3, padding=1)
    for share, sparse in ((0.1, True), (0.9, False)):
        x = torch.randint(1, most + 1, (4, 16, 12, 12)) * (torch.rand(4, 16, 12, 12) < share)
        x = x.float().contiguous(memory_format=torch.channels_last).requires_grad_()
        assert applies(conv, x)
        y, true = packed_conv(conv, x), conv(x)
        assert bool(calls) is sparse
        calls.clear()
        g = torch.randn_like(true)
        for a, b in zip(
            (y, *torch.autograd.grad(y, [x, *conv.parameters()], g)),
            (true, *torch.autograd.grad(true, [x, *conv.parameters()], g)),
            strict=True,
        ):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(
    ("channels", "options"),
    [
        (12, {"padding": 1}),
        (16, {"padding": 0}),
        (16, {"padding": 1, "stride": 3}),
        (16, {"padding": 1, "stride": (1, 2)}),
        (16, {"padding": 2, "dilation": 2}),
        (16, {"padding": 1, "groups": 2}),
        (16, {"padding": 2, "kernel_size": 5}),
        (16, {"padding": (1, 0), "kernel_size": (3, 1)}),
        (32, {"kernel_size": 1}),
    ],
    ids=str,
)
def test_other_shapes_are_left_to_the_dense_convolution(channels, options):
    conv = nn.Conv2d(channels, 8, **{"kernel_size": 3, **options})
    geometry = Convolution(conv.stride, conv.padding, conv.dilation, conv.groups)
    assert not has_spike_conv(conv.weight, geometry)
    x = (torch.rand(2, channels, 9, 9) < 0.1).float().contiguous(memory_format=torch.channels_last)
    assert torch.equal(packed_conv(conv, x), conv(x))


def test_another_memory_order_and_few_pixels_are_left_to_the_dense_convolution():
    x = torch.zeros(4, 16, 4, 4)
    assert not is_worth_it(packed(x))
    x = x.contiguous(memory_format=torch.channels_last)
    assert is_worth_it(packed(x))
    assert not is_worth_it(packed(x[:3]))
    assert not is_worth_it(packed(x[:0]))


@pytest.mark.parametrize("name", ["ms_resnet8", "sew_resnet8", "vanilla_resnet8"])
def test_a_network_has_the_gradients_of_the_reference(name):
    """Up to rounding: no potential lies so close to its threshold here that it would fire on one side alone."""
    torch.manual_seed(1)
    model = iso.create_model(name, T=2)
    x = torch.randn(2, 3, 16, 16)
    grads = []
    for backend in ("auto", "reference"):
        model.zero_grad()
        with iso.use_backend(backend):
            model(x).square().sum().backward()
        grads.append([p.grad.clone() for p in model.parameters()])
    largest = max(float(grad.abs().max()) for grad in grads[1])
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4 * largest)


def test_eval_gives_the_same_up_to_rounding_with_and_without_gradients():
    model = enliven(iso.create_model("ms_resnet8", T=2)).eval()
    x = torch.randn(4, 3, 32, 32)
    with torch.no_grad():
        logits = model(x)
    with torch.inference_mode():
        assert torch.equal(model(x), logits)
    torch.testing.assert_close(model(x), logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("table", [False, True])
@pytest.mark.usefixtures("each_isa")
def test_a_weight_that_is_not_finite_matters_only_where_its_channel_fires(table):
    x, weight, _ = make((2, 16, 6, 6, 8, 3, 1), 1)
    weight[:, 3] = torch.inf
    x[:, 3] = 0
    ordered = spike_weight(weight, None, 1, table=table)
    assert spike_conv.spike_conv(packed(x), ordered).isfinite().all()
    x[0, 3, 2, 2] = 1
    out = spike_conv.spike_conv(packed(x), ordered)
    assert out[0, :, 1:4, 1:4].isinf().all()
    assert out[0, :, 4:].isfinite().all()
    assert out[1].isfinite().all()


@pytest.mark.parametrize(("width", "worth_it"), [(2**16, True), (2**16 + 1, False)])
def test_rows_whose_tiles_32_bits_may_not_number_are_left_to_the_dense_convolution(width, worth_it):
    shape, stride = torch.Size([1, 8, 1, width]), (8 * width, 1, 8 * width, 8)
    assert is_worth_it(Spikes(torch.empty(0, dtype=torch.int64), None, 0, shape, stride)) == worth_it

"""Dense convolutions and means whose sums have one order, and digests of what tensors hold."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from helpers import dyadic
from isospike.errors import ShapeError
from isospike.graph import Call, Value
from isospike.inference import calls
from isospike.ops.conv2d import Convolution
from isospike.ops.cpu.dense import dense_conv, dense_weight, has_dense, window_means
from isospike.ops.cpu.digest import digests
from isospike.ops.cpu.packing import empty_bits, packed
from isospike.residual import REAL

pytestmark = pytest.mark.compiled
# Samples, channels, height, width, filters, kernel, stride, padding, dilation: single pixels, filters that fill no
# vector and several blocks, images of which several are a tile and such as are cut into bands, windows wider than maps.
SHAPES = [
    (1, 3, 1, 1, 1, (1, 1), (1, 1), (0, 0), (1, 1)),
    (2, 3, 9, 7, 16, (3, 3), (1, 1), (1, 1), (1, 1)),
    (5, 1, 5, 6, 33, (3, 3), (2, 2), (1, 1), (1, 1)),
    (40, 8, 4, 4, 70, (3, 3), (2, 2), (1, 1), (1, 1)),
    (2, 3, 70, 65, 20, (7, 7), (2, 2), (3, 3), (1, 1)),
    (3, 40, 5, 5, 24, (1, 1), (1, 1), (0, 0), (1, 1)),
    (3, 8, 6, 9, 10, (1, 1), (2, 2), (0, 0), (1, 1)),
    (2, 5, 11, 8, 9, (3, 2), (1, 3), (2, 0), (2, 1)),
    (2, 4, 6, 7, 8, (2, 3), (1, 1), (0, 2), (1, 2)),
    (1, 2, 1, 1, 4, (1, 1), (5, 5), (2, 2), (1, 1)),
    (1, 16, 200, 150, 4, (5, 5), (1, 1), (2, 2), (1, 1)),
]


def make(make_tensor, shape):
    N, C, H, W, filters, kernel, *geometry = shape
    x = make_tensor(N, C, H, W).contiguous(memory_format=torch.channels_last)
    return x, make_tensor(filters, C, *kernel), make_tensor(filters), Convolution(*geometry, 1)


def true_of(x, weight, bias, conv):
    return F.conv2d(x, weight, bias, *conv)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("memory", [torch.channels_last, torch.contiguous_format], ids=str)
@pytest.mark.usefixtures("each_isa")
def test_sums_are_exact_where_they_can_be(shape, memory):
    x, weight, bias, conv = make(dyadic, shape)
    weight, x = weight.contiguous(memory_format=memory), x.contiguous(memory_format=memory)
    assert has_dense(conv)
    true = true_of(x, weight, bias, conv)
    out = dense_conv(x, dense_weight(weight, bias.repeat_interleave(2)[::2], conv))
    assert torch.equal(out, true)
    assert out.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(dense_conv(x, dense_weight(weight, None, conv)), true_of(x, weight, None, conv))
    onto = dyadic(*true.shape).contiguous(memory_format=memory)
    expected = onto + true
    assert dense_conv(x, dense_weight(weight, bias, conv), onto) is onto
    assert torch.equal(onto, expected)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.usefixtures("each_isa")
def test_spikes_and_counts_are_read_as_bits_and_bytes(shape):
    _, weight, bias, conv = make(dyadic, shape)
    N, C, H, W = shape[:4]
    counts = torch.randint(0, 256, (N, C, H, W), dtype=torch.uint8).contiguous(memory_format=torch.channels_last)
    ordered = dense_weight(weight, bias, conv)
    assert torch.equal(dense_conv(counts, ordered), dense_conv(counts.float(), ordered))
    if C % 8 == 0:
        spikes = (counts > 127).float()
        bits = empty_bits((N, C, H, W))
        bits.permute(0, 2, 3, 1).view(-1).copy_(packed(spikes).fired.view(torch.uint8)[: bits.numel()])
        assert torch.equal(dense_conv(bits, ordered), dense_conv(spikes, ordered))


@pytest.mark.parametrize("shape", SHAPES[1:5], ids=str)
@pytest.mark.usefixtures("each_isa")
def test_bits_depend_neither_on_threads_nor_on_the_other_samples(shape):
    x, weight, bias, conv = make(torch.randn, (7, *shape[1:]))
    ordered = dense_weight(weight, bias, conv)
    once = dense_conv(x, ordered)
    try:
        for threads in (2, 3):
            torch.set_num_threads(threads)
            assert torch.equal(dense_conv(x, dense_weight(weight, bias, conv)), once)
    finally:
        torch.set_num_threads(1)
    for at in (0, 3, 6):
        assert torch.equal(dense_conv(x[at : at + 1], ordered)[0], once[at])


@pytest.mark.parametrize("shape", [(4, 3, 32, 32, 16, (3, 3), (1, 1), (1, 1), (1, 1)), SHAPES[4], SHAPES[5]], ids=str)
@pytest.mark.usefixtures("each_isa")
def test_it_rounds_about_as_much_as_any_sum(shape):
    x, weight, bias, conv = make(torch.randn, shape)
    exact = true_of(x.double(), weight.double(), bias.double(), conv)
    ours = (dense_conv(x, dense_weight(weight, bias, conv)) - exact).norm()
    assert 0 < ours < 3 * (true_of(x, weight, bias, conv) - exact).norm()


def test_what_does_not_fit_is_refused():
    assert not has_dense(Convolution((1, 1), (0, 0), (1, 1), 2))
    weight = dense_weight(torch.zeros(4, 3, 3, 3), None, Convolution((1, 1), (0, 0), (1, 1), 1))
    with pytest.raises(ShapeError, match="this layer reads 3 channels, and the map has 4"):
        dense_conv(torch.zeros(1, 4, 5, 5), weight)
    with pytest.raises(ShapeError, match="a map of 2x5 pixels is smaller than the kernel"):
        dense_conv(torch.zeros(1, 3, 2, 5), weight)


POOLS = [
    {"kernel_size": 2},
    {"kernel_size": 2, "ceil_mode": True},
    {"kernel_size": 3, "stride": 2, "padding": 1, "count_include_pad": False},
    {"kernel_size": (2, 3), "stride": (2, 1), "padding": (1, 1), "count_include_pad": False, "ceil_mode": True},
    {"kernel_size": 2, "stride": 3, "ceil_mode": True},
]


def run_call(module, x):
    call = Call(Value(0, x.shape[1], REAL), Value(1, x.shape[1], REAL), module)
    maps = {call.x: x}
    assert calls.is_ordered(call)
    calls.ordered(call)(maps, None, {})
    return maps[call.out]


@pytest.mark.parametrize("options", POOLS, ids=str)
@pytest.mark.parametrize("size", [(8, 8), (7, 9), (3, 5)])
@pytest.mark.usefixtures("each_isa")
def test_means_are_those_of_pytorch(options, size):
    pool, x = nn.AvgPool2d(**options), dyadic(3, 5, *size)
    torch.testing.assert_close(run_call(pool, x), pool(x), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("options", [{"divisor_override": 3}, {"padding": 1}], ids=str)
def test_other_divisors_are_left_to_pytorch(options):
    pool = nn.AvgPool2d(2, **options)
    assert not calls.is_ordered(Call(Value(0, 4, REAL), Value(1, 4, REAL), pool))


@pytest.mark.usefixtures("each_isa")
def test_means_of_maps_are_the_same_whatever_the_batch():
    x = torch.randn(6, 40, 7, 5).contiguous(memory_format=torch.channels_last)
    once = window_means(x, 40, calls._whole(x))
    torch.testing.assert_close(once[:, :, 0, 0], x.mean((2, 3)))
    assert torch.equal(window_means(x[2:3], 40, calls._whole(x)), once[2:3])


@pytest.mark.usefixtures("each_isa")
def test_a_digest_tells_every_change():
    x = torch.randn(1000)
    (before,) = digests([x])
    assert digests([x.clone(), x.view(10, 100)]) == [before, before]
    seen = {before}
    for changed in (-x, 2 * x, 0 * x, x.flip(0)):
        seen.update(digests([changed]))
    assert len(seen) == 5
    for at in (0, 1, 31, 32, 500, 998, 999):
        y = x.clone()
        y[at] = torch.nextafter(y[at], torch.tensor(9.0))
        assert digests([y]) != [before]
    swapped = x.clone()
    swapped[[0, 32]] = swapped[[32, 0]]
    assert digests([swapped]) != [before]
    rows = torch.randn(4, 6)
    assert digests([rows[:, ::2]]) == digests([rows[:, ::2].contiguous()])
    assert digests([torch.zeros(3)]) != digests([torch.zeros(4)])

"""A convolution keeps spikes at one bit, counts at one byte, and gives the same gradients."""

import pytest
import torch
from torch import nn

import isospike as iso
from isospike.errors import ConfigError
from isospike.ops import packed_conv
from isospike.ops.cpu.packed_conv import applies, refusal
from isospike.ops.cpu.packing import packed, spikes_of, unpacked

pytestmark = pytest.mark.compiled
INPUTS = {
    "spikes": lambda *shape: (torch.rand(shape) < 0.3).float(),
    "counts": lambda *shape: torch.randint(0, 256, shape).float(),
    "reals": torch.randn,
}
BYTES = {"spikes": 1 / 8, "counts": 1, "reals": 4}


@pytest.mark.parametrize("size", [1, 63, 64, 65, 2047, 2048, 2049, 40_000])
@pytest.mark.parametrize("kind", ["spikes", "counts"])
def test_packing_is_undone(size, kind):
    x = INPUTS[kind](1, size, 1, 1)
    spikes = packed(x)
    assert torch.equal(unpacked(spikes.kept, x.shape, x.stride()), x)
    assert spikes.number == x.count_nonzero()
    assert spikes.kept.dtype == {"spikes": torch.int64, "counts": torch.uint8}[kind] or size < 64
    bits = spikes.fired.view(torch.uint8)[: -(-size // 8), None] >> torch.arange(8) & 1
    assert torch.equal(bits.flatten()[:size].bool(), x.flatten() != 0)
    again = spikes_of(spikes.kept, spikes.number, x.shape, x.stride())
    assert torch.equal(again.fired[:-1], spikes.fired[:-1])
    assert again.number == spikes.number


@pytest.mark.parametrize("odd", [0.5, -1.0, 256.0, float("nan"), float("inf")])
@pytest.mark.parametrize("place", [0, 2047, 4999])
def test_one_value_that_does_not_fit_keeps_the_tensor_as_it_is(odd, place):
    x = INPUTS["spikes"](1, 5000, 1, 1)
    x[0, place] = odd
    assert packed(x) is None


def test_two_is_a_count():
    x = INPUTS["spikes"](1, 5000, 1, 1)
    x[0, 4321] = 2
    spikes = packed(x)
    assert torch.equal(unpacked(spikes.kept, x.shape, x.stride()), x)
    assert spikes.counts is not None


def test_a_tensor_with_gaps_is_not_packed():
    assert packed(INPUTS["spikes"](2, 8, 4, 4)[:, :4]) is None


@pytest.mark.parametrize("kind", INPUTS)
@pytest.mark.parametrize(
    "options", [{"padding": 1}, {"stride": 2, "padding": 1, "bias": False}, {"groups": 2}, {"dilation": 2}], ids=str
)
@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format], ids=str)
def test_gradients_are_those_of_the_plain_convolution(kind, options, memory_format):
    conv = nn.Conv2d(4, 6, 3, **options).to(memory_format=memory_format)
    x = INPUTS[kind](3, 4, 9, 9).contiguous(memory_format=memory_format).requires_grad_()
    inputs = [x, *conv.parameters()]
    assert applies(conv, x)
    assert refusal(x) is None
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        y = packed_conv(conv, x)
    true = conv(x)
    g = torch.randn_like(true)
    assert torch.equal(y, true)
    for a, b in zip(torch.autograd.grad(y, inputs, g), torch.autograd.grad(true, inputs, g), strict=True):
        assert torch.equal(a, b)
    whole = (-(-x.numel() // 64) + 1) * 64 if kind == "spikes" else x.numel()
    assert sum(t.nbytes for t in kept if t is not conv.weight) == whole * BYTES[kind]


def test_an_input_that_needs_no_gradient_gets_none_and_frozen_weights_keep_nothing():
    conv, x = nn.Conv2d(2, 3, 3), INPUTS["spikes"](2, 2, 5, 5)
    packed_conv(conv, x).sum().backward()
    assert x.grad is None
    assert conv.weight.grad is not None
    conv.requires_grad_(False)
    x.requires_grad_()
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        y = packed_conv(conv, x)
    assert [t.shape for t in kept] == [conv.weight.shape]
    (d,) = torch.autograd.grad(y.sum(), x)
    assert torch.equal(d, torch.autograd.grad(conv(x).sum(), x)[0])


def test_where_there_is_nothing_to_gain_it_is_the_module(recwarn):
    conv, x = nn.Conv2d(2, 3, 3, padding=1), torch.randn(1, 2, 5, 5)
    assert packed_conv(conv, x) is not None
    for name in ("auto", "cpu"):
        with iso.use_backend(name):
            for odd in ({"padding_mode": "reflect", "padding": 1}, {"padding": "same"}):
                assert packed_conv(nn.Conv2d(2, 3, 3, **odd), x) is None
            with torch.no_grad():  # nothing is kept, and there is no convolution of spikes from two channels
                assert packed_conv(conv, x) is None
                assert packed_conv(nn.Conv2d(8, 3, 3, padding=1), torch.randn(1, 8, 5, 5)) is not None
    with iso.use_backend("reference"):
        assert packed_conv(conv, x) is None
    assert not recwarn.list


def test_a_second_derivative_is_refused():
    conv, x = nn.Conv2d(2, 3, 3), torch.randn(1, 2, 5, 5, requires_grad=True)
    with pytest.raises(ConfigError, match="the compiled convolution has no second derivative"):
        torch.autograd.grad(packed_conv(conv, x).sum(), x, create_graph=True)


def test_a_training_step_keeps_spikes_small():
    model = iso.create_model("vanilla_resnet8", T=4)
    kept = {}
    for name in ("auto", "reference"):
        storages = {}
        with (
            iso.use_backend(name),
            torch.autograd.graph.saved_tensors_hooks(
                lambda t, s=storages: s.setdefault(t.untyped_storage().data_ptr(), t.nbytes) and t, lambda t: t
            ),
        ):
            kept[name] = model(torch.randn(4, 3, 32, 32)), storages
    fast, plain = (sum(kept[name][1].values()) for name in ("auto", "reference"))
    assert fast < 0.45 * plain


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf, -1.0, 256.0, 3e9, 0.5])
@pytest.mark.parametrize("size", [1, 33, 200])
def test_what_is_no_byte_is_not_packed(value, size):
    x = torch.arange(size).float()
    assert packed(x) is not None
    x[-1] = value
    assert packed(x) is None

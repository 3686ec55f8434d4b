"""Convolutions at inference: norms folded into their weights, in float or with 8-bit integers accumulated exactly."""

from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from isospike.graph import Between, Conv, Operation, Value
from isospike.inference.numbers import numbers_of
from isospike.ops.conv2d import Convolution
from isospike.ops.cpu.calls import add_onto, channels_last
from isospike.ops.cpu.dense import dense_conv, dense_weight, has_dense
from isospike.ops.cpu.packing import packed, packed_bytes, spikes_of_bits
from isospike.ops.cpu.spike_conv import (
    SpikeWeight,
    has_spike_conv,
    has_table,
    integer_spike_weight,
    spike_conv,
    spike_weight,
)
from isospike.ops.cpu.winograd import WinogradWeight, has_winograd, winograd_conv, winograd_weight
from isospike.residual import BINARY

# Machines without an instruction for it add two products of 8 bits in 16: 2 * 129 * 127 is the largest sum that fits.
LARGEST_INTEGER = 129
CHANNELS_LAST = torch.channels_last

Convolve = Callable[[Tensor, Tensor | None], Tensor]  # of a map, added to another one in place where there is one


def folded(conv: Conv) -> tuple[Tensor, Tensor | None]:
    """Weights and bias of a convolution and the affine behind it, products taken in float64."""
    weight, bias = conv.layer.weight.detach(), conv.module.bias
    if conv.affine is None:
        return weight.clone(memory_format=CHANNELS_LAST), None if bias is None else bias.detach().clone()
    scale, shift = (rows.double()[0].expand(conv.layer.out_channels) for rows in numbers_of(conv.affine))
    total = shift if bias is None else shift + scale * bias.double()
    weight = (weight.double() * scale.view(-1, 1, 1, 1)).to(weight.dtype)
    return weight.contiguous(memory_format=CHANNELS_LAST), total.to(weight.dtype)


def float_convolution(conv: Conv) -> Convolve:
    """The convolution in the model's own dtype."""
    layer, (weight, bias) = conv.layer, folded(conv)

    def convolve(x: Tensor, onto: Tensor | None) -> Tensor:
        out = F.conv2d(x, weight, bias, layer.stride, layer.padding, layer.dilation, layer.groups)
        return out if onto is None else onto.add_(out)

    return convolve


def has_packed(weight: Tensor) -> bool:
    """Whether oneDNN takes these weights in an order of its own, as ``torch.compile`` gives them to it."""
    fits = weight.dtype == torch.float32 and weight.device.type == "cpu" and torch.backends.mkldnn.is_available()
    return fits and hasattr(torch.ops.mkldnn, "_convolution_pointwise")


def packed_convolution(conv: Conv) -> Convolve:
    """The same on the CPU, the weights reordered once per shape of the input instead of at every call."""
    layer, (weight, bias) = conv.layer, folded(conv)
    stride, padding, dilation = _geometry(layer)
    last = torch.Size(), weight  # together in one tuple, so that no thread sees the shape of one and weights of another
    alone, accumulate = torch.ops.mkldnn._convolution_pointwise.default, torch.ops.mkldnn._convolution_pointwise_.binary

    def convolve(x: Tensor, onto: Tensor | None) -> Tensor:
        nonlocal last
        shape, packed = last
        if x.shape != shape:
            packed = _packed(weight, x, layer)
            last = x.shape, packed
        if onto is None:
            return alone(x, packed, bias, padding, stride, dilation, layer.groups, "none", [], "")
        return accumulate(onto, x, packed, bias, padding, stride, dilation, layer.groups, "add", 1.0, None, [], None)

    return convolve


def _packed(weight: Tensor, x: Tensor, layer: nn.Conv2d) -> Tensor:
    stride, padding, dilation = _geometry(layer)
    return torch.ops.mkldnn._reorder_convolution_weight(weight, padding, stride, dilation, layer.groups, [*x.shape])


def has_fewer_products(layer: nn.Conv2d) -> bool:
    """Whether the library has a way to run this layer with fewer products."""
    fits = layer.weight.dtype == torch.float32 and layer.weight.device.type == "cpu"
    return fits and has_winograd(layer.weight, Convolution(*_geometry(layer), layer.groups))


def has_order(conv: Conv) -> bool:
    """Whether the library runs this layer so that every sum has one order, whatever the batch: its weights are in one
    group."""
    layer = conv.layer
    fits = layer.weight.dtype == torch.float32 and layer.weight.device.type == "cpu"
    return fits and has_dense(Convolution(*_geometry(layer), layer.groups))


def ordered_convolution(conv: Conv) -> Convolve:
    """The same where ``has_order`` says yes; of spikes, only what fired is added up.

    How it is done depends on the layer alone. Spikes are floats, or bits where ``reads_bits`` says yes.
    """
    return spike_convolution(conv) if has_spikes(conv) else dense_convolution(conv)


def dense_convolution(conv: Conv) -> Convolve:
    """The same where ``has_order`` says yes, of any map: with fewer products where there is a way."""
    if has_fewer_products(conv.layer):
        return _with_fewer_products(winograd_weight(*folded(conv)))
    weight = dense_weight(*folded(conv), Convolution(*_geometry(conv.layer), 1))
    return lambda x, onto: dense_conv(x, weight, onto)


def _with_fewer_products(weight: WinogradWeight) -> Convolve:
    def convolve(x: Tensor, onto: Tensor | None) -> Tensor:
        out = winograd_conv(x, weight)
        return out if onto is None else add_onto(onto, out)

    return convolve


def reads_bits(conv: Conv) -> bool:
    """Whether ``ordered_convolution`` takes spikes as bits."""
    return has_spikes(conv) or not has_fewer_products(conv.layer)


def has_spikes(conv: Conv) -> bool:
    """Whether ``spike_convolution`` can run this: a layer that fits, on maps of 0 and 1."""
    layer = conv.layer
    fits = layer.weight.dtype == torch.float32 and layer.weight.device.type == "cpu" and conv.x.domain == BINARY
    return fits and has_spike_conv(layer.weight, Convolution(*_geometry(layer), layer.groups))


def spike_convolution(conv: Conv) -> Convolve:
    """The same of maps of 0 and 1 where ``has_spikes`` says yes: only what fired is added up.

    They are bits, uint8, or floats."""
    (weight, bias), stride = folded(conv), conv.layer.stride[0]
    return _of_spikes(conv, spike_weight(weight, bias, stride, table=has_table(weight, stride, integer=False)))


def integer_spike_convolution(conv: Conv) -> Convolve:
    """The same with 8-bit weights: ``scale * (exact sum of integers) + bias`` in float32."""
    (weight, bias), stride = folded(conv), conv.layer.stride[0]
    table = has_table(weight, stride, integer=True)
    return _of_spikes(conv, integer_spike_weight(*quantised(weight), bias, stride, table=table))


def _of_spikes(conv: Conv, weight: SpikeWeight) -> Convolve:
    channels = conv.layer.in_channels

    def convolve(x: Tensor, onto: Tensor | None) -> Tensor:
        if x.shape[1] != channels:
            return spike_conv(spikes_of_bits(x), weight, onto)
        x = channels_last(x)
        spikes = packed_bytes(x) if x.dtype == torch.uint8 else packed(x)
        assert spikes is not None, "the program promises spikes"
        return spike_conv(spikes, weight, onto)

    return convolve


def integer_maps(program: Iterable[Operation]) -> set[Value]:
    """Find the maps of small counts, which convolutions read as integers of 8 bits where they are quantised."""
    integers: set[Value] = set()
    for op in program:
        domain = op.out.domain
        if domain.largest is None or domain.largest > LARGEST_INTEGER or domain.signed:
            continue
        if isinstance(op, Between) or (isinstance(op.module, nn.MaxPool2d) and op.x in integers):
            integers.add(op.out)
    return integers


def quantised(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Weights ``[O, I, k, k]`` as int8 in [-127, 127], and what they are multiplied by ``[O]``: their largest / 127."""
    scale = weight.abs().amax((1, 2, 3)) / 127
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    return (weight / scale.view(-1, 1, 1, 1)).round().to(torch.int8), scale


def integer_convolution(conv: Conv) -> Convolve:
    """Convolve uint8 maps up to ``LARGEST_INTEGER``: ``scale * (exact sum of integers) + bias`` in float32."""
    layer, (weight, bias) = conv.layer, folded(conv)
    integers, scale = quantised(weight)
    geometry = _geometry(layer)
    packed = torch.ops.onednn.qconv_prepack(integers, scale, 1.0, 0, *geometry, layer.groups, None)
    zero = torch.zeros(layer.out_channels, dtype=torch.int32)
    run = torch.ops.onednn.qconv2d_pointwise.default

    def convolve(x: Tensor, onto: Tensor | None) -> Tensor:
        x = x.contiguous(memory_format=CHANNELS_LAST)
        out = run(x, 1.0, 0, packed, scale, zero, bias, *geometry, layer.groups, 1.0, 0, torch.float32, "none", [], "")
        return out if onto is None else onto.add_(out)

    return convolve


def _geometry(layer: nn.Conv2d) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Stride, padding, dilation."""
    assert not isinstance(layer.padding, str), "the recorder leaves such layers as they are"
    return layer.stride, layer.padding, layer.dilation

"""A convolution on the CPU that keeps its input in few bits, and adds up only what fired."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from isospike.ops.conv2d import Convolution, geometry_of, gradients
from isospike.ops.cpu import winograd
from isospike.ops.cpu.packing import packed, spikes_of, unpacked
from isospike.ops.cpu.refusals import no_second_derivative, refused_dtype, refused_place
from isospike.ops.cpu.spike_conv import (
    BESIDE_WINOGRAD,
    has_spike_conv,
    is_worth_it,
    spike_conv,
    spike_weight,
    weight_gradient,
)
from isospike.ops.cpu.winograd import has_winograd, winograd_conv, winograd_input_gradient, winograd_weight
from isospike.ops.memory import empty_strided


def applies(conv: nn.Conv2d, x: Tensor) -> bool:
    """Whether there is anything to gain: input to keep small, or a faster convolution of this shape."""
    geometry = geometry_of(conv)
    if geometry is None or not (torch.is_autocast_enabled("cpu") or x.dtype == conv.weight.dtype):
        return False
    return torch.is_grad_enabled() or has_spike_conv(conv.weight, geometry) or has_winograd(conv.weight, geometry)


def refusal(x: Tensor) -> str | None:
    """Why a convolution of ``x`` cannot be run here, as the end of a sentence; None where it can."""
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
    return refused_place(x) or refused_dtype(dtype)


def packed_conv(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """See ``isospike.ops.packed_conv``; here ``applies`` and ``refusal`` have been asked.

    Where few elements are not 0, the output and the gradient of the weights are sums over those alone. Dense outputs
    and gradients of the input go by Winograd's algorithm where they can.
    """
    return _PackedConv.apply(x, conv.weight, conv.bias, geometry_of(conv))


class _PackedConv(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Convolution) -> Tensor:
        ctx.geometry, ctx.biased, ctx.layout = geometry, bias is not None, (x.shape, x.stride())
        spikes = packed(x)
        ctx.number = 0 if spikes is None else spikes.number
        ctx.sparse = spikes is not None and has_spike_conv(weight, geometry) and is_worth_it(spikes)
        ctx.winograd = has_winograd(weight, geometry) and winograd.is_worth_it(x)
        kept = x if spikes is None else spikes.kept
        ctx.save_for_backward(kept if ctx.needs_input_grad[1] else None, weight)
        if spikes is not None and ctx.sparse and (not ctx.winograd or is_worth_it(spikes, BESIDE_WINOGRAD)):
            return spike_conv(spikes, spike_weight(weight, bias, geometry.stride[0]))
        if ctx.winograd:
            return winograd_conv(x, winograd_weight(weight, bias))
        return F.conv2d(x, weight, bias, *geometry)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise no_second_derivative("convolution")
        kept, weight = ctx.saved_tensors
        d_x = d_weight = x = None
        if kept is not None and ctx.sparse:
            spikes = spikes_of(kept, ctx.number, *ctx.layout)
            d_weight = weight_gradient(spikes, weight, grads[0], ctx.geometry.stride[0])
        elif kept is not None:
            x = kept if kept.dtype == torch.float32 else unpacked(kept, *ctx.layout)
        if ctx.needs_input_grad[0] and ctx.winograd:
            d_x = winograd_input_gradient(grads[0], weight)
        needed = [ctx.needs_input_grad[0] and d_x is None, x is not None, ctx.biased and ctx.needs_input_grad[2]]
        if not any(needed):
            return d_x, d_weight, None, None
        # Where this does not give the gradient of the weights, the values of x do not matter.
        x = empty_strided(*ctx.layout) if x is None else x
        dense = gradients(grads[0], x, weight, ctx.geometry, needed)
        return dense[0] if d_x is None else d_x, dense[1] if d_weight is None else d_weight, dense[2], None

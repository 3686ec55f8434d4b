"""A convolution on the CPU that keeps its input in few bits, and adds up only what fired."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from isospike.ops.conv2d import Convolution, geometry_of, gradients
from isospike.ops.cpu import winograd
from isospike.ops.cpu.packing import Spikes, packed, spikes_of, unpacked
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
        spikes = packed(x)
        ctx.both = BothWays(x.shape, x.stride(), geometry)
        y = ctx.both.forward(spikes, x, weight, bias)
        kept = x if spikes is None else spikes.kept
        ctx.save_for_backward(kept if ctx.needs_input_grad[1] else None, weight)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise no_second_derivative("convolution")
        kept, weight = ctx.saved_tensors
        return *ctx.both.backward(kept, weight, grads[0], ctx.needs_input_grad[:3]), None


class BothWays:
    """A convolution forward, and what its backward pass needs besides tensors.

    Args:
        shape: Of its input, ``[N, C, H, W]``.
        stride: Of its input, which has no gaps where it is packed.
        geometry: Of the convolution.
    """

    def __init__(self, shape: torch.Size, stride: tuple[int, ...], geometry: Convolution) -> None:
        self.shape, self.stride, self.geometry = shape, stride, geometry
        self.number, self.biased = 0, False
        self.sparse = self.winograd = False

    def forward(self, spikes: Spikes | None, x: Tensor | None, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Return the output for ``spikes`` and the floats ``x`` that they are, one of which may be missing."""
        self.biased = bias is not None
        self.number = 0 if spikes is None else spikes.number
        self.sparse = spikes is not None and has_spike_conv(weight, self.geometry) and is_worth_it(spikes)
        self.winograd = has_winograd(weight, self.geometry) and winograd.is_worth_it(self.shape, self.stride)
        if spikes is not None and self.sparse and (not self.winograd or is_worth_it(spikes, BESIDE_WINOGRAD)):
            return spike_conv(spikes, spike_weight(weight, bias, self.geometry.stride[0]))
        if x is None:
            assert spikes is not None
            x = unpacked(spikes.kept, self.shape, self.stride)
        if self.winograd:
            return winograd_conv(x, winograd_weight(weight, bias))
        return F.conv2d(x, weight, bias, *self.geometry)

    def backward(
        self, kept: Tensor | None, weight: Tensor, g: Tensor, needed: Sequence[bool]
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Return the gradients of input, weight and bias that are needed.

        Args:
            kept: Of the input, None where the gradient of the weights is not needed: what its spikes keep, or itself.
            weight: ``[O, C, k, k]``.
            g: Gradient of the output, ``[N, O, H', W']``.
            needed: Of input, weight and bias.
        """
        d_x = d_weight = x = None
        if kept is not None and self.sparse:
            spikes = spikes_of(kept, self.number, self.shape, self.stride)
            d_weight = weight_gradient(spikes, weight, g, self.geometry.stride[0])
        elif kept is not None:
            x = kept if kept.dtype == torch.float32 else unpacked(kept, self.shape, self.stride)
        if needed[0] and self.winograd:
            d_x = winograd_input_gradient(g, weight)
        left = [needed[0] and d_x is None, x is not None, self.biased and needed[2]]
        if not any(left):
            return d_x, d_weight, None
        # Where this does not give the gradient of the weights, the values of x do not matter.
        x = empty_strided(self.shape, self.stride) if x is None else x
        dense = gradients(g, x, weight, self.geometry, left)
        return dense[0] if d_x is None else d_x, dense[1] if d_weight is None else d_weight, dense[2]

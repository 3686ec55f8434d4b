"""A convolution on a GPU that keeps what neurons put out in bits or bytes, and computes what the plain one does."""

from typing import Any

import torch
from torch import Tensor, nn

from isospike.ops.conv2d import Convolution, geometry_of, gradients
from isospike.ops.fired import fired
from isospike.ops.gpu import leaky_fire as fire
from isospike.ops.memory import empty_strided, is_dense

LARGEST = 255  # of a byte; every dtype that a GPU convolves holds all integers up to it
UNPACK_BLOCK = 1024


def applies(conv: nn.Conv2d, x: Tensor) -> bool:
    """Whether there is anything to gain: an input that is known to fit few bits, to be kept for the backward pass."""
    note = fired(x)
    return (
        note is not None
        and note.levels <= LARGEST
        and torch.is_grad_enabled()
        and conv.weight.requires_grad
        and geometry_of(conv) is not None
        and (torch.is_autocast_enabled(x.device.type) or x.dtype == conv.weight.dtype)
    )


def refusal(x: Tensor) -> str | None:
    """Why a convolution of ``x`` cannot be run here, as the end of a sentence; None where it can."""
    return fire.refused_current(x)


def packed_conv(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """See ``isospike.ops.packed_conv``; here ``applies`` and ``refusal`` have been asked."""
    note = fired(x)
    assert note is not None, "applies() was not asked"
    device, dtype = x.device.type, x.dtype
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
    weight, bias = (None if p is None else p.to(dtype) for p in (conv.weight, conv.bias))
    with torch.autocast(device, enabled=False):
        return _PackedConv.apply(x.to(dtype), note.bits, weight, bias, geometry_of(conv))


class _PackedConv(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, bits: Tensor | None, weight: Tensor, bias: Tensor | None, geometry: Convolution
    ) -> Tensor:
        ctx.geometry, ctx.biased, ctx.layout = geometry, bias is not None, (x.shape, x.stride(), x.dtype)
        dense = is_dense(x)
        bytes_of_x = x.to(torch.uint8) if bits is None and dense else None
        ctx.save_for_backward(bits, bytes_of_x, x if bits is None and not dense else None, weight)
        return torch.nn.functional.conv2d(x, weight, bias, *geometry)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise fire.no_second_derivative()
        bits, counts, x, weight = ctx.saved_tensors
        if bits is not None:
            x = _unpacked(bits, *ctx.layout)
        elif counts is not None:
            x = counts.to(ctx.layout[2])
        needed = [ctx.needs_input_grad[0], ctx.needs_input_grad[2], ctx.biased and ctx.needs_input_grad[3]]
        d_x, d_weight, d_bias = gradients(grads[0], x, weight, ctx.geometry, needed)
        return d_x, None, d_weight, d_bias, None


def _unpacked(bits: Tensor, shape: torch.Size, stride: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    x = empty_strided(shape, stride, dtype, bits.device)
    with torch.cuda.device_of(bits):
        fire.kernels("bits").unpack_kernel[(-(-x.numel() // UNPACK_BLOCK),)](
            bits, x, x.numel(), BLOCK=UNPACK_BLOCK, **fire.OPTIONS
        )
    return x

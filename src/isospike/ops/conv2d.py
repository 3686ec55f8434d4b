"""A 2D convolution without its module: its geometry, its output, and its gradients.

A 1x1 convolution with a stride is written as a slice and a convolution of stride 1, because oneDNN's gradient of its
input writes past its memory on machines without AVX-512 (docs/design.md, "PyTorch faults that we step around").
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Convolution(NamedTuple):
    """The arguments of ``F.conv2d`` besides tensors."""

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int


def geometry_of(conv: nn.Conv2d) -> Convolution | None:
    """Return the geometry of a layer; None where its padding is not a number of zeros."""
    if conv.padding_mode != "zeros" or isinstance(conv.padding, str):
        return None
    return Convolution(conv.stride, conv.padding, conv.dilation, conv.groups)


def conv2d(x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Convolution) -> Tensor:
    """``F.conv2d`` of ``x [N, C, H, W]``, with gradients that are right on every machine."""
    if _skips_pixels(weight, geometry):
        return F.conv2d(_read_pixels(x, geometry), weight, bias, *_at_stride_1(geometry))
    return F.conv2d(x, weight, bias, *geometry)


def gradients(
    g: Tensor, x: Tensor, weight: Tensor, geometry: Convolution, needed: list[bool]
) -> tuple[Tensor | None, ...]:
    """Compute the needed gradients of input, weight and bias ``[O]`` from the gradient ``g`` of the output."""
    if not _skips_pixels(weight, geometry):
        return _gradients(g, x, weight, geometry, needed)
    d_read, d_weight, d_bias = _gradients(g, _read_pixels(x, geometry), weight, _at_stride_1(geometry), needed)
    if d_read is None:
        return None, d_weight, d_bias
    d_x = torch.zeros_like(x)
    _read_pixels(d_x, geometry).copy_(d_read)
    return d_x, d_weight, d_bias


def _gradients(
    g: Tensor, x: Tensor, weight: Tensor, geometry: Convolution, needed: list[bool]
) -> tuple[Tensor | None, ...]:
    stride, padding, dilation, groups = geometry
    return torch.ops.aten.convolution_backward(
        g, x, weight, [weight.shape[0]], stride, padding, dilation, False, [0, 0], groups, needed
    )


def _skips_pixels(weight: Tensor, geometry: Convolution) -> bool:
    """Whether the convolution is 1x1, unpadded, and reads one pixel of several."""
    return weight.shape[2:] == (1, 1) and geometry.stride != (1, 1) and geometry.padding == (0, 0)


def _read_pixels(x: Tensor, geometry: Convolution) -> Tensor:
    rows, columns = geometry.stride
    return x[:, :, ::rows, ::columns]


def _at_stride_1(geometry: Convolution) -> Convolution:
    return geometry._replace(stride=(1, 1))

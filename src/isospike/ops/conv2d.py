"""A 2D convolution without its module: its geometry, and its gradients."""

from typing import NamedTuple

import torch
from torch import Tensor, nn


class Convolution(NamedTuple):
    """What ``F.conv2d`` takes besides tensors."""

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int


def geometry_of(conv: nn.Conv2d) -> Convolution | None:
    """That of a layer; None where it pads with something else than so many zeros."""
    if conv.padding_mode != "zeros" or isinstance(conv.padding, str):
        return None
    return Convolution(conv.stride, conv.padding, conv.dilation, conv.groups)


def gradients(
    g: Tensor, x: Tensor, weight: Tensor, geometry: Convolution, needed: list[bool]
) -> tuple[Tensor | None, ...]:
    """Those of input, weight and bias ``[O]`` that are needed, from the gradient ``g`` of the output."""
    stride, padding, dilation, groups = geometry
    return torch.ops.aten.convolution_backward(
        g, x, weight, [weight.shape[0]], stride, padding, dilation, False, [0, 0], groups, needed
    )

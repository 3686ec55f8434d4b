"""Dense convolutions with fewer products: ``csrc/winograd.c``."""

import ctypes
from typing import NamedTuple

import torch
from torch import Tensor

from isospike.errors import RunFailed
from isospike.ops.conv2d import Convolution
from isospike.ops.cpu.abi import CMaps, address
from isospike.ops.cpu.calls import call, channels_last
from isospike.ops.cpu.library import compiled, lanes
from isospike.ops.memory import empty_channels_last, has_channels_last

SIDES = 2, 4  # of the squares of outputs that are computed together
FEWEST_PIXELS = 256  # for fewer, transforming many weights takes longer than what is spared


class WinogradWeight(NamedTuple):
    """Transformed weights and bias in the order in which the library reads them.

    Attributes:
        data: All of them.
        shape: ``[O, C, 3, 3]``, of the weights.
        side: Of the squares of outputs that are computed together: 2 or 4.
    """

    data: Tensor
    shape: torch.Size
    side: int


def has_winograd(weight: Tensor, conv: Convolution) -> bool:
    """Whether the library has a dense convolution of this shape, and the gradient of its input.

    It is 3x3, padded by 1, of stride 1, in one group, between multiples of 16 channels (8 without AVX-512, 4 without
    AVX2).
    """
    (filters, C, *kernel), block = weight.shape, lanes()
    return (
        block > 0
        and kernel == [3, 3]
        and conv == Convolution((1, 1), (1, 1), (1, 1), 1)
        and filters % block == 0
        and C % block == 0
    )


def is_worth_it(shape: torch.Size, stride: tuple[int, ...]) -> bool:
    """Whether a map ``[N, C, H, W]`` is channels-last and has pixels enough."""
    return has_channels_last(shape, stride) and shape.numel() >= FEWEST_PIXELS * shape[1]


def winograd_weight(weight: Tensor, bias: Tensor | None) -> WinogradWeight:
    """``weight [O, C, 3, 3]`` and ``bias [O]`` of a convolution for which ``has_winograd`` says yes."""
    return _transformed(weight, bias, side=2, turned=False)


def winograd_conv(x: Tensor, weight: WinogradWeight) -> Tensor:
    """``F.conv2d`` of ``x [N, C, H, W]``; channels-last.

    The order of every sum is fixed: its bits depend neither on the number of threads nor on the other samples.
    """
    x, lib = channels_last(x), compiled()
    (N, _, H, W), (C, *_) = x.shape, weight.shape
    out = empty_channels_last(N, C, H, W)
    pointers = x.data_ptr(), weight.data.data_ptr(), out.data_ptr()
    if call(lib.isospike_winograd, _geometry(x.shape, weight.shape, weight.side), *pointers, torch.get_num_threads()):
        raise RunFailed("there is no memory left for a convolution: take a smaller batch")
    return out


def winograd_input_gradient(g: Tensor, weight: Tensor) -> Tensor:
    """The gradient of the input from that of the output, ``g [N, O, H, W]``: the same convolution, turned around.

    No spike hangs on its last bits, so it takes the larger squares where they come to fewer products, though they round
    three times as much.
    """
    side = min(SIDES, key=lambda side: products(side, *g.shape[2:]))
    return winograd_conv(g, _transformed(weight.transpose(0, 1), None, side=side, turned=True))


def products(side: int, H: int, W: int) -> int:
    """Return how many a map takes for a pair of channels by squares of this side."""
    return (side + 2) ** 2 * -(-H // side) * -(-W // side)


def _transformed(weight: Tensor, bias: Tensor | None, *, side: int, turned: bool) -> WinogradWeight:
    """The kernels turned around by half a circle, or as they are."""
    lib, geometry = compiled(), _geometry((0, weight.shape[1], 0, 0), weight.shape, side)
    data, steps = torch.empty(lib.isospike_winograd_room(geometry)), (ctypes.c_int64 * 4)(*weight.stride())
    bias = None if bias is None else bias.contiguous()
    lib.isospike_winograd_pack(
        geometry, weight.data_ptr(), steps, turned, address(bias), data.data_ptr(), torch.get_num_threads()
    )
    return WinogradWeight(data, weight.shape, side)


def _geometry(x: tuple[int, ...], weight: tuple[int, ...], side: int) -> CMaps:
    return CMaps(*x, weight[0], side)

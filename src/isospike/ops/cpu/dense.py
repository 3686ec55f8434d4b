"""Dense convolutions and means over windows whose sums have one order: ``csrc/dense.c``, ``csrc/mean.c``."""

import ctypes
from typing import NamedTuple

import torch
from torch import Tensor

from isospike.errors import RunFailed, ShapeError
from isospike.ops.conv2d import Convolution
from isospike.ops.cpu.abi import CDense, CWindow, address
from isospike.ops.cpu.calls import add_onto, call, channels_last
from isospike.ops.cpu.library import compiled, no_library
from isospike.ops.memory import empty_channels_last, is_place

BITS = {torch.float32: 32, torch.uint8: 8}  # of an element


class DenseWeight(NamedTuple):
    """Weights and bias in the order in which the library reads them.

    Attributes:
        data: All of them.
        shape: ``[O, C, rows, columns]``, of the weights.
        conv: The geometry.
    """

    data: Tensor
    shape: torch.Size
    conv: Convolution


class Windows(NamedTuple):
    """Windows of a map, in pairs of rows and columns.

    Attributes:
        kernel: Their size.
        stride: The way from one to the next.
        padding: How far the first is outside.
        outputs: How many there are.
    """

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    outputs: tuple[int, int]


def has_dense(conv: Convolution) -> bool:
    """Whether the library has a dense convolution of this geometry: all in one group."""
    return no_library() is None and conv.groups == 1


def dense_weight(weight: Tensor, bias: Tensor | None, conv: Convolution) -> DenseWeight:
    """``weight [O, C, rows, columns]`` and ``bias [O]`` of a convolution for which ``has_dense`` says yes."""
    lib, ordered = compiled(), DenseWeight(torch.empty(0), weight.shape, conv)
    geometry = _geometry((0, weight.shape[1], 0, 0), 32, ordered)
    data = torch.empty(lib.isospike_dense_room(geometry))
    steps = (ctypes.c_int64 * 4)(*weight.stride())
    bias = None if bias is None else bias.contiguous()
    lib.isospike_dense_pack(geometry, weight.data_ptr(), steps, address(bias), data.data_ptr(), torch.get_num_threads())
    return ordered._replace(data=data)


def dense_conv(x: Tensor, weight: DenseWeight, onto: Tensor | None = None) -> Tensor:
    """``F.conv2d`` of ``x [N, C, H, W]``; channels-last, or added to ``onto`` in place.

    The order of every sum is fixed: its bits depend neither on the number of threads nor on the other samples.

    Args:
        x: Floats, integers as uint8, or spikes as bits (``empty_bits``).
        weight: Of ``dense_weight``.
        onto: ``[N, O, H', W']``.
    """
    x, C, width = as_read(x, weight.shape[1])
    (N, _, *size), kernel = x.shape, weight.shape[2:]
    stride, padding, dilation, _ = weight.conv
    room = [size[i] + 2 * padding[i] - dilation[i] * (kernel[i] - 1) - 1 for i in range(2)]
    if min(room) < 0:
        raise ShapeError(
            f"a map of {size[0]}x{size[1]} pixels is smaller than the kernel of the convolution that reads it"
        )
    H, W = (room[i] // stride[i] + 1 for i in range(2))
    fits = onto is not None and is_place(onto, (N, weight.shape[0], H, W))
    out = onto if onto is not None and fits else empty_channels_last(N, weight.shape[0], H, W)
    geometry = _geometry((N, C, *size), width, weight)
    pointers = x.data_ptr(), weight.data.data_ptr(), out.data_ptr()
    if call(compiled().isospike_dense, geometry, *pointers, fits, torch.get_num_threads()):
        raise RunFailed("there is no memory left for a convolution: take a smaller batch")
    return out if onto is None or fits else add_onto(onto, out)


def window_means(x: Tensor, channels: int, windows: Windows) -> Tensor:
    """The mean of what of every window is inside the map, ``[N, C, H', W']``; ``x`` is as in ``dense_conv``."""
    x, C, width = as_read(x, channels)
    N, _, H, W = x.shape
    out = empty_channels_last(N, C, *windows.outputs)
    pairs = ((ctypes.c_int64 * 2)(*pair) for pair in windows)
    geometry = CWindow(N, C, H, W, *pairs, width)
    if call(compiled().isospike_mean, geometry, x.data_ptr(), out.data_ptr(), torch.get_num_threads()):
        raise RunFailed("there is no memory left for a mean: take a smaller batch")
    return out


def as_read(x: Tensor, channels: int) -> tuple[Tensor, int, int]:
    """Return a map with its channels innermost, how many they are, and the bits of an element."""
    x = channels_last(x)
    width = 1 if x.dtype == torch.uint8 and 8 * x.shape[1] == channels else BITS[x.dtype]
    if width != 1 and x.shape[1] != channels:
        raise ShapeError(f"this layer reads {channels} channels, and the map has {x.shape[1]}")
    return x, channels, width


def _geometry(x: tuple[int, ...], width: int, weight: DenseWeight) -> CDense:
    stride, padding, dilation, _ = weight.conv
    pairs = ((ctypes.c_int64 * 2)(*pair) for pair in (weight.shape[2:], stride, padding, dilation))
    return CDense(*x, weight.shape[0], *pairs, width)

"""Dense convolutions with fewer products: ``csrc/winograd.c``."""

import ctypes

import torch
from torch import Tensor

from isospike.errors import RunFailed
from isospike.ops import cpu
from isospike.ops.conv2d import Convolution
from isospike.ops.memory import empty_strided

CHANNELS_LAST = torch.channels_last
FEWEST_PIXELS = 256  # for fewer, transforming many weights takes longer than what is spared


def has_winograd(weight: Tensor, conv: Convolution) -> bool:
    """Whether the library has a dense convolution of this shape, and the gradient of its input.

    It is 3x3, padded by 1, of stride 1, in one group, between multiples of 16 channels (8 without AVX-512).
    """
    (filters, C, *kernel), lanes = weight.shape, _lanes()
    return (
        lanes > 0
        and kernel == [3, 3]
        and conv == Convolution((1, 1), (1, 1), (1, 1), 1)
        and filters % lanes == 0
        and C % lanes == 0
    )


def is_worth_it(x: Tensor) -> bool:
    """Whether ``x [N, C, H, W]`` is channels-last and has pixels enough."""
    return x.is_contiguous(memory_format=CHANNELS_LAST) and x.numel() >= FEWEST_PIXELS * x.shape[1]


def winograd_conv(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``F.conv2d`` of ``x [N, C, H, W]``, where ``has_winograd`` says yes; channels-last.

    The order of every sum is fixed: its bits depend neither on the number of threads nor on the other samples.
    """
    return _run(x, weight, bias, turned=False)


def winograd_input_gradient(g: Tensor, weight: Tensor) -> Tensor:
    """The gradient of the input from that of the output, ``g [N, O, H, W]``: the same convolution, turned around."""
    return _run(g, weight.transpose(0, 1), None, turned=True)


def _run(x: Tensor, weight: Tensor, bias: Tensor | None, *, turned: bool) -> Tensor:
    """With the kernels of ``weight [filters, channels, 3, 3]`` turned around by half a circle, or as they are."""
    lib, threads = cpu.compiled(), torch.get_num_threads()
    x = x.contiguous(memory_format=CHANNELS_LAST)
    (N, C, H, W), filters = x.shape, len(weight)
    geometry = (ctypes.c_int64 * 6)(N, C, H, W, filters, _lanes())
    packed = torch.empty(lib.isospike_winograd_room(geometry))
    steps = (ctypes.c_int64 * 4)(*weight.stride())
    bias = None if bias is None else bias.contiguous()
    lib.isospike_winograd_pack(geometry, weight.data_ptr(), steps, turned, cpu.data(bias), packed.data_ptr(), threads)
    out = empty_strided((N, filters, H, W), (filters * H * W, 1, filters * W, filters))
    if lib.isospike_winograd(geometry, x.data_ptr(), packed.data_ptr(), out.data_ptr(), threads):
        raise RunFailed("there is no memory left for a convolution: take a smaller batch")
    return out


def _lanes() -> int:
    """Floats of a vector, 0 where there is no library, or none for this machine."""
    return 0 if cpu.library() is None else cpu.compiled().isospike_winograd_lanes()

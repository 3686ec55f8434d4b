"""The gradient of the input of a convolution of stride 2, dense: ``csrc/strided_gradient.c``."""

import ctypes

import torch
from torch import Tensor

from isospike.errors import RunFailed
from isospike.ops.conv2d import Convolution
from isospike.ops.cpu.abi import CDense, CStrided
from isospike.ops.cpu.library import compiled, lanes
from isospike.ops.memory import empty_strided

CHANNELS_LAST = torch.channels_last
FEWEST_PIXELS = 512  # for fewer, putting many weights in order takes longer than what is spared


def has_strided_gradient(weight: Tensor, conv: Convolution, g: Tensor) -> bool:
    """Whether the library has the gradient of the input of this convolution, from that of the output, ``g``.

    The convolution is of stride 2, 3x3 padded by 1, or 1x1; in one group; between multiples of 16 channels (8 without
    AVX-512, 4 without AVX2). ``g [N, O, H', W']`` is channels-last and has pixels enough.
    """
    (filters, C, kernel, width), block = weight.shape, lanes()
    return (
        block > 0
        and kernel == width
        and kernel in (1, 3)
        and conv == Convolution((2, 2), (kernel // 2,) * 2, (1, 1), 1)
        and filters % block == 0
        and C % block == 0
        and g.is_contiguous(memory_format=CHANNELS_LAST)
        and g.numel() >= FEWEST_PIXELS * filters
    )


def strided_gradient(g: Tensor, weight: Tensor, size: tuple[int, ...]) -> Tensor:
    """From the gradient of the output, ``g [N, O, H', W']``, and ``weight [O, C, k, k]``, that of inputs of a ``size``
    ``(H, W)``; channels-last.

    The order of every sum is fixed: its bits depend neither on the number of threads nor on the other samples.
    """
    g, lib = g.contiguous(memory_format=CHANNELS_LAST), compiled()
    (filters, C, kernel, _), (H, W), threads = weight.shape, size, torch.get_num_threads()
    N, _, *of_g = g.shape
    geometry = CStrided(CDense(N, filters, *of_g, C), kernel, H, W)
    ordered, steps = torch.empty(weight.numel()), (ctypes.c_int64 * 4)(*weight.stride())
    lib.isospike_strided_gradient_pack(geometry, weight.data_ptr(), steps, ordered.data_ptr(), threads)
    out = empty_strided((N, C, H, W), (C * H * W, 1, C * W, C))
    if lib.isospike_strided_gradient(geometry, g.data_ptr(), ordered.data_ptr(), out.data_ptr(), threads):
        raise RunFailed("there is no memory left for a convolution: take a smaller batch")
    return out

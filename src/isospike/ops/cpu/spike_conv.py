"""Convolutions of packed spikes, whose time falls with the rate of firing: ``csrc/spike_conv.c``."""

import ctypes
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from isospike.errors import RunFailed
from isospike.ops.conv2d import Convolution
from isospike.ops.cpu.abi import CGeometry, CSpikes, address
from isospike.ops.cpu.library import compiled, no_library
from isospike.ops.cpu.packing import Spikes
from isospike.ops.memory import empty_channels_last, is_channels_last

FEWEST_CHANNELS = {1: 64, 3: 8}  # by size of the kernel: with fewer, looking for spikes takes longer than adding them
WIDEST = 2**16  # pixels of a row: the C code numbers the elements of a tile, of 8 rows at least, in 32 bits
FEWEST_PIXELS = 64  # for fewer, putting many weights in order takes longer than a dense convolution


class Most(NamedTuple):
    """The share of inputs that may fire where adding up what fired is to be the faster way (docs/performance.md)."""

    spikes: float
    counts: float


BESIDE_DENSE, BESIDE_WINOGRAD = Most(0.6, 0.3), Most(0.35, 0.1)


class SpikeWeight(NamedTuple):
    """Weights and bias in the order in which the library reads them.

    Attributes:
        data: All of them.
        shape: ``[O, C, k, k]``, of the weights.
        stride: Of the convolution.
    """

    data: Tensor
    shape: torch.Size
    stride: int


def has_spike_conv(weight: Tensor, conv: Convolution) -> bool:
    """Whether the library has a convolution of this shape, faster than a dense one where few neurons fire.

    It is 3x3, padded by 1, or 1x1 from 64 channels on; of stride 1 or 2; from a multiple of 8 channels; in one group.
    """
    (_, C, kernel, width), stride = weight.shape, conv.stride[0]
    return (
        no_library() is None
        and kernel == width
        and FEWEST_CHANNELS.get(kernel, C + 1) <= C
        and C % 8 == 0
        and stride in (1, 2)
        and conv == Convolution((stride,) * 2, (kernel // 2,) * 2, (1, 1), 1)
    )


def is_worth_it(spikes: Spikes, most: Most = BESIDE_DENSE) -> bool:
    """Whether few enough fire, at pixels enough, in rows that are not too wide, and their memory is channels-last."""
    size, (_, C, _, W) = spikes.shape.numel(), spikes.shape
    share = most.spikes if spikes.counts is None else most.counts
    return spikes.channels_last and W <= WIDEST and size >= FEWEST_PIXELS * C and spikes.number <= share * size


def spike_weight(weight: Tensor, bias: Tensor | None, stride: int) -> SpikeWeight:
    """``weight [O, C, k, k]`` and ``bias [O]`` of a convolution for which ``has_spike_conv`` says yes."""
    lib, geometry = compiled(), _geometry((0, weight.shape[1], 0, 0), weight.shape, stride)
    data = torch.empty(lib.isospike_spike_conv_room(geometry))
    bias = None if bias is None else bias.contiguous()
    lib.isospike_spike_conv_pack(
        geometry, weight.data_ptr(), _steps(weight), address(bias), data.data_ptr(), torch.get_num_threads()
    )
    return SpikeWeight(data, weight.shape, stride)


def spike_conv(spikes: Spikes, weight: SpikeWeight, onto: Tensor | None = None) -> Tensor:
    """``F.conv2d`` of channels-last ``spikes``; added to ``onto [N, O, H', W']`` in place where there is one.

    The order of every sum is fixed: its bits depend neither on the number of threads nor on the other samples.
    """
    (N, _, *size), (C, *_) = spikes.shape, weight.shape
    H, W = ((length - 1) // weight.stride + 1 for length in size)
    fits = onto is not None and is_channels_last(onto)
    out = onto if onto is not None and fits else empty_channels_last(N, C, H, W)
    geometry = _geometry(spikes.shape, weight.shape, weight.stride)
    pointers = _pointers(spikes), weight.data.data_ptr(), out.data_ptr()
    _run(compiled().isospike_spike_conv, geometry, *pointers, fits)
    return out if onto is None or fits else onto.add_(out)


def weight_gradient(spikes: Spikes, weight: Tensor, g: Tensor, stride: int) -> Tensor:
    """The gradient of ``weight [O, C, k, k]`` from that of the output, ``g [N, O, H', W']``."""
    g, d_weight = g.contiguous(memory_format=torch.channels_last), torch.empty_like(weight)
    geometry = _geometry(spikes.shape, weight.shape, stride)
    pointers = _pointers(spikes), g.data_ptr(), d_weight.data_ptr(), _steps(d_weight)
    _run(compiled().isospike_spike_conv_weight, geometry, *pointers)
    return d_weight


def _geometry(x: tuple[int, ...], weight: tuple[int, ...], stride: int) -> CGeometry:
    return CGeometry(*x, weight[0], weight[2], stride)


def _pointers(spikes: Spikes) -> CSpikes:
    return CSpikes(spikes.fired.data_ptr(), address(spikes.counts))


def _steps(weight: Tensor) -> ctypes.Array[ctypes.c_int64]:
    return (ctypes.c_int64 * 4)(*weight.stride())


def _run(function: Callable[..., int], *arguments: object) -> None:
    if function(*arguments, torch.get_num_threads()):
        raise RunFailed("there is no memory left for a convolution: take a smaller batch")

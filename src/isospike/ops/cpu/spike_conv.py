"""Convolutions of packed spikes, whose time falls with the rate of firing: ``csrc/spike_conv.c``."""

import ctypes
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from isospike.errors import RunFailed
from isospike.ops.conv2d import Convolution
from isospike.ops.cpu.abi import CGeometry, CSpikes, address
from isospike.ops.cpu.build import ISAS
from isospike.ops.cpu.calls import add_onto, call
from isospike.ops.cpu.library import compiled, instruction_set, lanes, no_library
from isospike.ops.cpu.packing import Spikes
from isospike.ops.memory import empty_channels_last, is_place

FEWEST_CHANNELS = {1: 64, 3: 8}  # by size of the kernel: with fewer, looking for spikes takes longer than adding them
WIDEST = 2**16  # pixels of a row: the C code numbers the elements of a tile, of 8 rows at least, in 32 bits
FLOAT, INTEGER = 4, 2  # bytes of what is added up
LARGEST_SUM = 2**15 - 1  # that 16 bits hold
FEWEST_PIXELS = 64  # for fewer, putting many weights in order takes longer than a dense convolution


class Most(NamedTuple):
    """The share of inputs that may fire where adding up what fired is to be the faster way."""

    spikes: float
    counts: float


# By instruction set, where benchmarks/spike_conv.py found the dense one, and Winograd's, as fast, in the median of its
# shapes. It was not run with the lowest.
BESIDE_DENSE = dict(zip(ISAS, (Most(0.68, 0.39), Most(0.68, 0.39), Most(0.76, 0.56)), strict=True))
BESIDE_WINOGRAD = dict(zip(ISAS, (Most(0.36, 0.25), Most(0.36, 0.25), Most(0.42, 0.34)), strict=True))


class SpikeWeight(NamedTuple):
    """Weights, scale and bias in the order in which the library reads them.

    Attributes:
        data: All of them, bytes.
        shape: ``[O, C, k, k]``, of the weights.
        stride: Of the convolution.
        groups: The channel behind each group of those that are added up in 16 bits together; the last one is C.
        cell: Bytes of a number that is added up: 4 for floats, 2 for integers.
        table: Whether the weights of every 4 channels are a table of their 16 sums, which takes spikes alone.
    """

    data: Tensor
    shape: torch.Size
    stride: int
    groups: list[int]
    cell: int
    table: bool


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


def is_worth_it(spikes: Spikes, beside: Mapping[str, Most] = BESIDE_DENSE) -> bool:
    """Whether few enough fire, at pixels enough, in rows that are not too wide, and their memory is channels-last."""
    size, (_, C, _, W), isa = spikes.shape.numel(), spikes.shape, instruction_set()
    assert isa is not None
    share = beside[isa].spikes if spikes.counts is None else beside[isa].counts
    return spikes.channels_last and W <= WIDEST and size >= FEWEST_PIXELS * C and spikes.number <= share * size


def spike_weight(weight: Tensor, bias: Tensor | None, stride: int, *, table: bool = False) -> SpikeWeight:
    """``weight [O, C, k, k]`` and ``bias [O]`` of a convolution for which ``has_spike_conv`` says yes.

    With ``table`` it takes spikes alone, no counts of them.
    """
    return _in_order(weight, None, bias, stride, [weight.shape[1]], FLOAT, table)


def integer_spike_weight(
    weight: Tensor, scale: Tensor, bias: Tensor | None, stride: int, *, table: bool = False
) -> SpikeWeight:
    """The same of integers in [-127, 127], ``weight`` int8, for spikes alone: ``scale [O] * (exact sum) + bias``.

    Weights are added up in 16 bits, over as many channels as are sure to fit them, and these sums in 32.
    """
    return _in_order(weight.float(), scale, bias, stride, groups_that_fit(weight), INTEGER, table)


def groups_that_fit(weight: Tensor) -> list[int]:
    """Cut the channels of int8 weights ``[O, C, k, k]``, k up to 3, where a sum of any of them may leave 16 bits.

    Returns:
        The channel behind each group, all multiples of 8: so many always fit.
    """
    signs = torch.stack([weight.clamp(min=0), weight.clamp(max=0)]).abs()
    reached = signs.sum((3, 4)).unflatten(2, (-1, 8)).sum(3)  # [2, O, C / 8]
    groups, sums = [], torch.zeros_like(reached[..., 0])
    for index, more in enumerate(reached.unbind(2)):
        if (sums + more > LARGEST_SUM).any():
            groups.append(8 * index)
            sums = torch.zeros_like(sums)
        sums = sums + more
    return [*groups, weight.shape[1]]


def has_table(weight: Tensor, stride: int, *, integer: bool) -> bool:
    """Whether sums by a table are faster where neurons fire as they do in trained networks (docs/performance.md).

    They take as long whatever fires; a loop over what fired waits for the processor to guess wrong where it ends, which
    few channels do not make up for.
    """
    C, kernel = weight.shape[1:3]
    if integer:
        return kernel == 3 and stride * 16 >= C
    return kernel == 3 and C <= 16 and (stride == 2 or lanes() < 16)


def _in_order(
    weight: Tensor, scale: Tensor | None, bias: Tensor | None, stride: int, groups: list[int], cell: int, table: bool
) -> SpikeWeight:
    ordered = SpikeWeight(torch.empty(0), weight.shape, stride, groups, cell, table)
    lib, geometry = compiled(), _geometry((0, weight.shape[1], 0, 0), ordered)
    data = torch.empty(lib.isospike_spike_conv_room(geometry), dtype=torch.uint8)
    scale, bias = (None if row is None else row.contiguous() for row in (scale, bias))
    pointers = weight.data_ptr(), _steps(weight), address(scale), address(bias), data.data_ptr()
    lib.isospike_spike_conv_pack(geometry, *pointers, torch.get_num_threads())
    return ordered._replace(data=data)


def spike_conv(spikes: Spikes, weight: SpikeWeight, onto: Tensor | None = None) -> Tensor:
    """``F.conv2d`` of channels-last ``spikes``; added to ``onto [N, O, H', W']`` in place where there is one.

    The order of every sum is fixed: its bits depend neither on the number of threads nor on the other samples.
    """
    (N, _, *size), (C, *_) = spikes.shape, weight.shape
    H, W = ((length - 1) // weight.stride + 1 for length in size)
    fits = onto is not None and is_place(onto, (N, C, H, W))
    out = onto if onto is not None and fits else empty_channels_last(N, C, H, W)
    geometry = _geometry(spikes.shape, weight)
    ends = (ctypes.c_int64 * len(weight.groups))(*weight.groups)
    pointers = _pointers(spikes), weight.data.data_ptr(), ends, len(ends), out.data_ptr()
    _run(compiled().isospike_spike_conv, geometry, *pointers, fits)
    return out if onto is None or fits else add_onto(onto, out)


def weight_gradient(spikes: Spikes, weight: Tensor, g: Tensor, stride: int) -> Tensor:
    """The gradient of ``weight [O, C, k, k]`` from that of the output, ``g [N, O, H', W']``."""
    g, d_weight = g.contiguous(memory_format=torch.channels_last), torch.empty_like(weight)
    geometry = CGeometry(*spikes.shape, weight.shape[0], weight.shape[2], stride, FLOAT)
    pointers = _pointers(spikes), g.data_ptr(), d_weight.data_ptr(), _steps(d_weight)
    _run(compiled().isospike_spike_conv_weight, geometry, *pointers)
    return d_weight


def _geometry(x: tuple[int, ...], weight: SpikeWeight) -> CGeometry:
    return CGeometry(*x, weight.shape[0], weight.shape[2], weight.stride, weight.cell, weight.table)


def _pointers(spikes: Spikes) -> CSpikes:
    return CSpikes(spikes.fired.data_ptr(), address(spikes.counts))


def _steps(weight: Tensor) -> ctypes.Array[ctypes.c_int64]:
    return (ctypes.c_int64 * 4)(*weight.stride())


def _run(function: Callable[..., int], *arguments: object) -> None:
    if call(function, *arguments, torch.get_num_threads()):
        raise RunFailed("there is no memory left for a convolution: take a smaller batch")

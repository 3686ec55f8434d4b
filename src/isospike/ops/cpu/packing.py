"""Spikes and their counts kept small: bits and bytes instead of floats, ``csrc/pack.c``."""

from typing import NamedTuple

import torch
from torch import Tensor

from isospike.ops.cpu.calls import note_more
from isospike.ops.cpu.library import compiled
from isospike.ops.memory import empty_row, empty_strided, has_channels_last, is_dense

WORD = 64


class Spikes(NamedTuple):
    """A tensor of integers from 0 to 255, in the order of its memory.

    Attributes:
        fired: Bits: which are not 0; int64, 64 of them in each, and one word more.
        counts: The integers, uint8; None where all of them are 0 or 1.
        number: How many are not 0; -1 where nobody has counted.
        shape: ``[N, C, H, W]``.
        stride: Elements from one to the next, without gaps.
    """

    fired: Tensor
    counts: Tensor | None
    number: int
    shape: torch.Size
    stride: tuple[int, ...]

    @property
    def kept(self) -> Tensor:
        """The tensor to keep for the backward pass; ``unpacked`` and ``spikes_of`` compute all else from it."""
        return self.fired if self.counts is None else self.counts

    @property
    def channels_last(self) -> bool:
        """Whether the channels of a pixel lie side by side."""
        return has_channels_last(self.shape, self.stride)


def packed(x: Tensor) -> Spikes | None:
    """``x`` as spikes; None where it is not dense in memory or holds other values."""
    if not is_dense(x):
        return None
    fired = room_for_bits(x.numel())
    number = _call("isospike_pack_bits", x, fired)
    if number >= 0:
        return Spikes(fired, None, number, x.shape, x.stride())
    counts = empty_row(x.numel(), torch.uint8)
    if not _call("isospike_pack_bytes", x, counts):
        return None
    return _counted(counts, x.shape, x.stride())


def empty_bits(shape: tuple[int, int, int, int]) -> Tensor:
    """Room for spikes ``[N, C, H, W]`` as bits, C a multiple of 8: uint8 ``[N, C / 8, H, W]``, channels last."""
    N, C, H, W = shape
    return empty_row(N * H * W * C // 8 + 8, torch.uint8)[:-8].view(N, H, W, C // 8).permute(0, 3, 1, 2)


def spikes_of_bits(x: Tensor) -> Spikes:
    """A map of ``empty_bits`` that has been filled."""
    N, eighths, H, W = x.shape
    C = 8 * eighths
    return Spikes(x, None, -1, torch.Size((N, C, H, W)), (C * H * W, 1, W * C, C))


def packed_bytes(x: Tensor) -> Spikes:
    """``x``, uint8 and dense in memory, of 0 and 1 alone."""
    fired = room_for_bits(x.numel())
    return Spikes(fired, None, _call("isospike_bits_of_bytes", x, fired), x.shape, x.stride())


def spikes_of(kept: Tensor, number: int, shape: torch.Size, stride: tuple[int, ...]) -> Spikes:
    """The spikes that kept this, all that is not derived from it being given."""
    if kept.dtype == torch.uint8:
        return _counted(kept, shape, stride)
    return Spikes(kept, None, number, shape, stride)


def unpacked(kept: Tensor, shape: torch.Size, stride: tuple[int, ...]) -> Tensor:
    """The floats of which this was kept."""
    x = empty_strided(shape, stride)
    if kept.dtype == torch.uint8:
        x.as_strided((x.numel(),), (1,)).copy_(kept)
    else:
        compiled().isospike_unpack_bits(x.numel(), kept.data_ptr(), x.data_ptr(), torch.get_num_threads())
    return x


def _counted(counts: Tensor, shape: torch.Size, stride: tuple[int, ...]) -> Spikes:
    fired = room_for_bits(counts.numel())
    return Spikes(fired, counts, _call("isospike_bits_of_bytes", counts, fired), shape, stride)


def room_for_bits(size: int) -> Tensor:
    """An empty tensor for so many bits, and a word more."""
    return empty_row(-(-size // WORD) + 1, torch.int64)


def _call(name: str, x: Tensor, out: Tensor) -> int:
    note_more()  # its answer decides
    return getattr(compiled(), name)(x.numel(), x.data_ptr(), out.data_ptr(), torch.get_num_threads())

"""Counts of spikes as binary slots: how a network that was trained on integers runs on spikes alone."""

from copy import copy
from functools import reduce
from operator import add

import torch
from torch import Tensor, nn


def binary_slots(x: Tensor, levels: int) -> Tensor:
    """Write integers in {0, ..., levels} as spikes: slot d holds 1 where ``x > d``.

    Args:
        x: Any shape ``[...]``.
        levels: Number of slots, at least the largest of ``x``.

    Returns:
        ``[levels, ...]`` in {0, 1}, of the dtype of ``x``; their sum over slots is ``x``.

    Source: Luo et al. 2024 (SpikeYOLO), arXiv:2407.20708: integers in training, spikes in inference.
    """
    slot = torch.arange(levels, device=x.device).view(-1, *[1] * x.dim())
    return (x > slot).to(x.dtype)


class SlotConv(nn.Module):
    """Convolves integers, one binary slot after the other, and adds them up; a bias counts once.

    Args:
        conv: The convolution.
        levels: The largest integer that it reads.
    """

    def __init__(self, conv: nn.Conv2d, levels: int) -> None:
        super().__init__()
        self.levels, self.conv, self.bias = levels, copy(conv), conv.bias
        self.conv._parameters = {**conv._parameters, "bias": None}  # the same weights, in a shallow copy

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[N, C, H, W]`` integers to what ``conv`` gives, up to rounding."""
        total = reduce(add, (self.conv(slot) for slot in binary_slots(x, self.levels)))
        return total if self.bias is None else total + self.bias.view(-1, 1, 1)

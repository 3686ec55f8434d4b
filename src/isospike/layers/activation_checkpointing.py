"""Activation checkpointing: keep the inputs of some layers, and run the layers again in the backward pass."""

from collections.abc import Callable
from contextlib import ExitStack
from math import isqrt
from typing import TypeVar

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from isospike.layers.statistics import statistics_known
from isospike.ops import asked_backend, use_backend
from isospike.registry import Registry

Out = TypeVar("Out")

MEMORY: Registry[Callable[[int], int]] = Registry("memory")
"""Modes of memory by name: how many of the n units of a stage are recomputed together; 0 recomputes none.

Groups of k units keep n/k inputs, and about three maps per unit while one group is recomputed: this is least where k is
the root of n/3.
"""
MEMORY.register("fast", lambda units: 0)
MEMORY.register("lean", lambda units: 1)
MEMORY.register("leanest", lambda units: max(1, isqrt(units // 3)))


def recomputed(run: Callable[..., Out], *inputs: Tensor) -> Out:
    """Call ``run(*inputs)`` and keep only the inputs: the backward pass calls it again, as it was called at first.

    Running statistics move once. Gradients are those of ``run`` to the last bit, as both runs give the same bits; it
    must not draw random numbers. ``torch.utils.checkpoint`` does the same, and loads 70 MB of compiler for it.
    """
    with saved_tensors_hooks(*_Segment(run, inputs).hooks()):
        return run(*inputs)


class _Segment:
    """Replaces the saved tensors of one call by numbers until the first of them is needed."""

    def __init__(self, run: Callable[..., object], inputs: tuple[Tensor, ...]) -> None:
        self.run, self.inputs = run, [x.detach().requires_grad_(x.requires_grad) for x in inputs]
        self.backend = asked_backend()
        device = inputs[0].device.type
        self.autocast = device, torch.get_autocast_dtype(device), torch.is_autocast_enabled(device)
        self.saved = 0
        self.values: dict[int, Tensor] = {}

    def hooks(self) -> tuple[Callable[[Tensor], int], Callable[[int], Tensor]]:
        """Return the functions that replace a saved tensor by its number, and a number by the tensor."""
        return self._number, self._value

    def _number(self, tensor: Tensor) -> int:
        self.saved += 1
        return self.saved - 1

    def _value(self, number: int) -> Tensor:
        if number not in self.values:
            self._run_again()
        return self.values.pop(number)

    def _run_again(self) -> None:
        self.values.clear()
        device, dtype, enabled = self.autocast
        with ExitStack() as stack:
            stack.enter_context(use_backend(self.backend))
            stack.enter_context(statistics_known())
            stack.enter_context(torch.autocast(device, dtype, enabled=enabled))
            stack.enter_context(torch.enable_grad())
            stack.enter_context(saved_tensors_hooks(self._keep, lambda kept: kept))
            self.run(*self.inputs)

    def _keep(self, tensor: Tensor) -> Tensor:
        self.values[len(self.values)] = kept = tensor.detach()
        return kept

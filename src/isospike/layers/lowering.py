"""Layers run several at a time in training, where a backend can: what stands between two convolutions is one pass.

They run one by one, as modules, wherever the network is such that there is nothing to be one pass: in eval, under a
hook, with statistics that processes share, on the reference. Where a backend could and does not (its dtype, its
surrogates), ``ops/backend.py`` says why, or refuses if it was asked for by name.
"""

from typing import NamedTuple

from torch import Tensor, nn
from torch.nn.modules import module as torch_module

from isospike.layers.conv import is_plain_conv
from isospike.layers.exact import is_exactly
from isospike.layers.norm import BatchNorm
from isospike.layers.statistics import Statistics
from isospike.layers.steps import Steps
from isospike.neurons import Neuron, is_recurrence
from isospike.ops import Firing, norm_fire, packed_conv


class Fused(NamedTuple):
    """Current and spikes ``[T, B, C, H, W]``; None what was not asked for."""

    u: Tensor | None
    s: Tensor | None

    def current(self) -> Tensor:
        """The one that was asked for."""
        assert self.u is not None
        return self.u

    def spikes(self) -> Tensor:
        """Those that were asked for."""
        assert self.s is not None
        return self.s


def fuse(
    norm: nn.Module,
    neuron: Neuron | None,
    x: Tensor,
    steps: Steps,
    *,
    skip: Tensor | None = None,
    added: Tensor | None = None,
    keep: bool = False,
) -> Fused | None:
    """``u = norm(x) + skip`` and ``s = neuron(u) + added`` in one pass; None where they must run one by one.

    Args:
        norm: Only a ``BatchNorm`` that takes its statistics from ``x`` can, and none of a class of its own.
        neuron: Only a ``SpikingNeuron`` from rest can, whose class has no other ``forward``; None: nothing fires.
        x: ``[T, B, C, H, W]``; without neuron and skip also ``[1, ...]``.
        steps: The time that ``x`` covers.
        skip: ``[T or 1, B, C, H, W]``.
        added: ``[T or 1, B, C, H, W]``.
        keep: Whether u is wanted besides the spikes.
    """
    if not steps.fuses or not isinstance(norm, BatchNorm) or not is_exactly(norm, BatchNorm):
        return None
    if not norm.takes_statistics_of(x) or not untouched(norm):
        return None
    firing = None
    if neuron is not None:
        if not is_recurrence(neuron) or steps.v is not None or not untouched(neuron):
            return None
        firing = Firing(*neuron.coefficients(), neuron.rule)
    if len(x) != steps.T and (firing is not None or skip is not None):
        return None  # a stream that is still the same at every step
    affine = norm.scaled_weight(), norm.bias, norm.eps, norm.root_eps
    done = norm_fire(x, *affine, skip=skip, firing=firing, added=added, keep=keep)
    if done is None:
        return None
    count = x.numel() // norm.num_features
    norm.record(Statistics(count, done.mean, done.var * (count / (count - 1))))
    return Fused(done.u, done.s)


def convolve(conv: nn.Conv2d, x: Tensor) -> Tensor | None:
    """``conv`` at every step of ``x [T, B, C, H, W]``, kept in few bits; None where it must run as a module."""
    y = packed_conv(conv, x.flatten(0, 1)) if is_plain_conv(conv) and untouched(conv) else None
    return None if y is None else y.unflatten(0, x.shape[:2])


def untouched(*modules: nn.Module) -> bool:
    """Whether nobody asked to be told when one of these runs."""
    hooked = torch_module._global_forward_hooks or torch_module._global_forward_pre_hooks
    return not hooked and not any(
        m._forward_hooks or m._forward_pre_hooks or m._backward_hooks or m._backward_pre_hooks for m in modules
    )

"""What the rules of ``theory.py`` expect of a residual unit, from the moments that its layers see."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from isospike.analysis import theory
from isospike.analysis.probes import probe, signs
from isospike.analysis.theory import Moments, Part
from isospike.layers import BatchNorm, Chain, PerStepNorm
from isospike.neurons import Neuron
from isospike.residual import ResidualUnit

PROBES = 2  # of a neuron, whose Jacobian joins only the steps of one place: few tell it well


@dataclass(frozen=True)
class Seen:
    """Statistics of what one layer read and of what it put out.

    Args:
        read: Second moment of the input around the mean of its channel, which a norm takes away.
        made: That of the output.
        size: Numbers in the output.
        local: Moments of a neuron or of a norm on its own.
    """

    read: float
    made: float
    size: int
    local: Moments | None


@contextmanager
def layers_seen(unit: ResidualUnit | None) -> Iterator[dict[nn.Module, Seen]]:
    """Look at every layer of ``unit``, where there is one, while it runs inside the block."""
    seen: dict[nn.Module, Seen] = {}

    def look(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor | tuple[Tensor, Tensor]) -> None:
        x, y = inputs[0].detach(), (output if isinstance(output, Tensor) else output[0]).detach()
        local = None
        if isinstance(layer, Neuron):
            local = _over_time(layer, x)
        elif isinstance(layer, BatchNorm | PerStepNorm):
            local = _rescaling(x, y)
        read, made = (_deviation(z).square().mean().item() for z in (x, y))
        seen[layer] = Seen(read, made, y.numel(), local)

    chains = () if unit is None else _chains(unit)
    hooks = [layer.register_forward_hook(look) for chain in chains for layer in chain.children()]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def expected_moments(unit: ResidualUnit, seen: dict[nn.Module, Seen]) -> Moments | None:
    """Compute phi and varphi of ``unit`` by the serial and the parallel rule; None where a part has no rule.

    The rules take blocks as independent of each other.
    """
    if unit.join is not None and not unit.join.linear:
        return None
    shared, branch, skip, after = (_parts(chain, seen) for chain in _chains(unit))
    if shared is None or branch is None or skip is None or after is None:
        return None
    if unit.join is None:
        return theory.serial([*shared, *branch, *after])
    both = theory.parallel([theory.serial(branch), theory.serial(skip) if skip else theory.IDENTITY])
    return theory.serial([*shared, Part(both, branch[-1].size), *after])


def _chains(unit: ResidualUnit) -> tuple[Chain, Chain, Chain, Chain]:
    return unit.shared, unit.branch, unit.skip, unit.after


def _parts(chain: Chain, seen: dict[nn.Module, Seen]) -> list[Part] | None:
    """Split the chain into components; a convolution and the norm behind it are one."""
    parts: list[Part] = []
    conv: nn.Conv2d | None = None
    layers = [*chain.children()]
    for index, layer in enumerate(layers):
        follows = layers[index + 1] if index + 1 < len(layers) else None
        if isinstance(layer, nn.Conv2d):
            conv = layer
            if not isinstance(follows, BatchNorm | PerStepNorm):
                parts.append(Part(_convolution(layer), seen[layer].size))
                conv = None
        elif conv is not None:
            parts.append(Part(_normed(conv, seen[conv].read, seen[layer].made), seen[layer].size))
            conv = None
        elif isinstance(layer, nn.AvgPool2d) and isinstance(layer.kernel_size, int):
            parts.append(Part(theory.average_pool(layer.kernel_size), seen[layer].size))
        elif (local := seen[layer].local) is not None:
            parts.append(Part(local, seen[layer].size))
        else:
            return None
    return parts


def _convolution(conv: nn.Conv2d) -> Moments:
    variance = conv.weight.detach().double().square().mean().item()
    return theory.convolution(
        conv.in_channels, conv.out_channels, conv.kernel_size, variance, stride=int(conv.stride[0])
    )


def _normed(conv: nn.Conv2d, read: float, made: float) -> Moments:
    return theory.normed_convolution(
        read, made, conv.in_channels, conv.out_channels, conv.kernel_size, stride=int(conv.stride[0])
    )


def _over_time(neuron: Neuron, x: Tensor) -> Moments:
    """Probe a neuron over all its steps, with what passes through its potential and its reset.

    ``forward`` is called by its name, so that no hook sees these calls.
    """
    generator = torch.Generator().manual_seed(0)
    probed = probe(lambda x: neuron.forward(x)[0], x, lambda y: (signs(y, generator) for _ in range(PROBES)))
    return Moments(probed.phi().value, max(0.0, probed.varphi().value))


def _rescaling(x: Tensor, y: Tensor) -> Moments:
    """Describe a norm on its own: every channel times the ratio of its standard deviations."""
    ratios = (_deviation(y) / _deviation(x)).nan_to_num(0.0, posinf=0.0)
    return theory.slopes(ratios)


def _deviation(x: Tensor) -> Tensor:
    """Return the standard deviation of every channel, the third dimension from the end."""
    return x.double().transpose(0, -3).flatten(1).std(1, correction=0)

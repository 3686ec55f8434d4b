"""The interpreter: the only code that turns a topology's words into modules."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from isospike.layers import WEIGHT_INITS, BatchNorm, Chain, Conv2d, PerStepNorm, Steps
from isospike.neurons import Neuron, build_neuron
from isospike.residual.topology import NormInit, Topology

EXPANSION = 4  # a bottleneck's last convolution widens by this


@dataclass(frozen=True)
class ConvSpec:
    """A convolution to be: output channels, kernel, stride; padding keeps the map size at stride 1."""

    out_channels: int
    kernel: int
    stride: int = 1
    bias: bool = False

    def module(self, in_channels: int, weight_init: str) -> Conv2d:
        """Build the module for this many input channels, and draw its weights."""
        padding = self.kernel // 2
        conv = Conv2d(in_channels, self.out_channels, self.kernel, self.stride, padding, bias=self.bias)
        WEIGHT_INITS[weight_init](conv)
        return conv


def build_chain(
    topology: Topology, words: Iterable[str], in_channels: int, convs: Sequence[ConvSpec], norms: Sequence[NormInit]
) -> Chain:
    """Build modules for ``words``, their convolutions and norms taken in order from ``convs`` and ``norms``.

    A word that occurs once names its module (``conv``); one that occurs more often is numbered (``conv1``).
    """
    words = list(words)
    next_conv, next_norm = iter(convs), iter(norms)
    channels, layers = in_channels, []
    pooled = 1
    for name, word in zip(_names(words), words, strict=True):
        if word == "conv":
            conv = next(next_conv)
            layer: nn.Module = replace(conv, stride=conv.stride // pooled).module(channels, topology.weight_init)
            channels = conv.out_channels
        elif word == "norm":
            layer = _norm(topology, channels, next(next_norm))
        elif word == "pool":
            pooled = convs[0].stride
            layer = nn.AvgPool2d(pooled, ceil_mode=True, count_include_pad=False)
        else:
            layer = build_neuron(topology.neuron)
        layers.append((name, layer))
    return Chain(layers)


def _names(words: Sequence[str]) -> Iterator[str]:
    total, seen = Counter(words), Counter[str]()
    for word in words:
        seen[word] += 1
        yield word if total[word] == 1 else f"{word}{seen[word]}"


def _norm(topology: Topology, channels: int, init: NormInit) -> BatchNorm | PerStepNorm:
    options: dict[str, Any] = {"weight": init.weight, "scale": init.scale(topology.v_threshold)}
    options |= {"eps": topology.norm_eps, "root_eps": topology.norm_root_eps}
    if topology.per_step_norm:
        return PerStepNorm(topology.T, channels, **options)
    return BatchNorm(channels, **options)


class ResidualUnit(nn.Module):
    """One residual unit of a topology: ``after(join(branch(x), skip(x)))``.

    Args:
        topology: The row to build.
        in_channels: Channels of the stream that comes in.
        width: Channels inside the branch; a bottleneck puts out ``4 * width``, a basic unit ``width``.
        stride: Spatial stride, at the first 3x3 convolution.
        bottleneck: 1x1 - 3x3 - 1x1 instead of 3x3 - 3x3.
        pool_projection: Let an average pool take the projection's stride.
        always_project: Project even where the shape stays.
    """

    def __init__(
        self,
        topology: Topology,
        in_channels: int,
        width: int,
        *,
        stride: int = 1,
        bottleneck: bool = False,
        pool_projection: bool = False,
        always_project: bool = False,
    ) -> None:
        super().__init__()
        convs = [ConvSpec(width, 3, stride), ConvSpec(width, 3)]
        if bottleneck:
            convs = [ConvSpec(width, 1), ConvSpec(width, 3, stride), ConvSpec(width * EXPANSION, 1)]
        self.out_channels = convs[-1].out_channels
        self.join = topology.join
        words, norms = topology.branch(len(convs)), topology.branch_norms(len(convs))
        self.projects = self.join is not None and (always_project or stride != 1 or in_channels != self.out_channels)
        lead: list[str] = []
        if self.projects and "shared" in topology.project.split():
            lead = words[: words.index("conv")]
        self.shared = build_chain(topology, lead, in_channels, [], norms[: lead.count("norm")])
        self.branch = build_chain(topology, words[len(lead) :], in_channels, convs, norms[lead.count("norm") :])
        if self.projects:
            self.skip = self._projection(topology, in_channels, stride, pool_projection)
        else:
            self.skip = build_chain(topology, topology.identity.split(), in_channels, [], [topology.norm_project])
        self.after = build_chain(topology, topology.after.split(), self.out_channels, [], [])
        self._start_tail(topology)

    def forward(self, x: Tensor, steps: Steps) -> Tensor:
        """Map the stream ``[T or 1, B, C, H, W]`` through one unit to ``[T, B, C', H', W']``."""
        branch, skip = self.parts(x, steps)
        joined = branch if self.join is None else steps.join(self.join, branch=branch, skip=skip)
        return steps.run(self.after, joined)

    def parts(self, x: Tensor, steps: Steps) -> tuple[Tensor, Tensor]:
        """Compute branch and skip, before they are joined."""
        shared = steps.run(self.shared, x)
        return steps.run(self.branch, shared), steps.run(self.skip, shared)

    def _projection(self, topology: Topology, in_channels: int, stride: int, pool: bool) -> Chain:
        words = [word for word in topology.project.split() if word != "shared"]
        if pool and stride > 1 and "pool" not in words:
            words.insert(0, "pool")  # before a neuron, so that the convolution behind it still reads spikes
        norms = [topology.norm_project] * words.count("norm")
        return build_chain(topology, words, in_channels, [ConvSpec(self.out_channels, 1, stride)], norms)

    @torch.no_grad()
    def _start_tail(self, topology: Topology) -> None:
        """Scale a convolution that ends the branch, or start its last norm at the join's neutral value."""
        if not topology.tail_is_norm:
            *_, conv = (m for m in self.branch.children() if isinstance(m, nn.Conv2d))
            conv.weight.mul_(topology.conv_last)
        elif self.join is not None and self.join.neutral and topology.starts_neutral:
            *_, tail = (m for m in self.branch.children() if isinstance(m, BatchNorm | PerStepNorm))
            *_, last = self.branch.children()
            for norm in tail.modules():
                if isinstance(norm, BatchNorm) and isinstance(last, Neuron):
                    norm.starts["bias"] = self.join.neutral * last.current_to_fire()
                    norm.reset_parameters()

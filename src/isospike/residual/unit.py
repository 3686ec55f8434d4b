"""The interpreter: the only code that turns a topology's words into modules."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from isospike.layers import BatchNorm, Chain, Steps
from isospike.neurons import NEURONS, SpikingNeuron
from isospike.registry import build
from isospike.residual.topology import NormInit, Topology

EXPANSION = 4  # a bottleneck's last convolution widens by this


@dataclass(frozen=True)
class Conv:
    """A convolution to be: output channels, kernel, stride; padding keeps the map size at stride 1."""

    out_channels: int
    kernel: int
    stride: int = 1
    bias: bool = False

    def module(self, in_channels: int) -> nn.Conv2d:
        """The module for this many input channels."""
        padding = self.kernel // 2
        return nn.Conv2d(in_channels, self.out_channels, self.kernel, self.stride, padding, bias=self.bias)


def build_chain(
    topology: Topology, words: Iterable[str], in_channels: int, convs: Sequence[Conv], norms: Sequence[NormInit]
) -> Chain:
    """Modules for ``words``, their convolutions and norms taken in order from ``convs`` and ``norms``.

    A word that occurs once names its module (``conv``); one that occurs more often is numbered (``conv1``).
    """
    words = list(words)
    next_conv, next_norm = iter(convs), iter(norms)
    channels, layers = in_channels, []
    pooled = 1
    for name, word in zip(_names(words), words, strict=True):
        if word == "conv":
            conv = next(next_conv)
            layer: nn.Module = Conv(conv.out_channels, conv.kernel, conv.stride // pooled, conv.bias).module(channels)
            channels = conv.out_channels
        elif word == "norm":
            layer = _norm(topology, channels, next(next_norm))
        elif word == "pool":
            pooled = convs[0].stride
            layer = nn.AvgPool2d(pooled, ceil_mode=True, count_include_pad=False)
        else:
            layer = build(NEURONS, topology.neuron)
        layers.append((name, layer))
    return Chain(layers)


def _names(words: Sequence[str]) -> Iterator[str]:
    total, seen = Counter(words), Counter[str]()
    for word in words:
        seen[word] += 1
        yield word if total[word] == 1 else f"{word}{seen[word]}"


def _norm(topology: Topology, channels: int, init: NormInit) -> BatchNorm:
    return BatchNorm(channels, weight=init.weight, scale=init.scale(topology.v_threshold))


class ResidualUnit(nn.Module):
    """One residual unit of a topology: ``after(join(branch(x), skip(x)))``.

    Args:
        topology: The row to build.
        in_channels: Channels of the stream that comes in.
        width: Channels inside the branch; a bottleneck puts out ``4 * width``, a basic unit ``width``.
        stride: Spatial stride, at the first 3x3 convolution.
        bottleneck: 1x1 - 3x3 - 1x1 instead of 3x3 - 3x3.
        pool_projection: Let an average pool take the projection's stride.
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
    ) -> None:
        super().__init__()
        convs = [Conv(width, 3, stride), Conv(width, 3)]
        if bottleneck:
            convs = [Conv(width, 1), Conv(width, 3, stride), Conv(width * EXPANSION, 1)]
        self.out_channels = convs[-1].out_channels
        self.join = topology.join
        words, norms = topology.branch(len(convs)), topology.branch_norms(len(convs))
        self.branch = build_chain(topology, words, in_channels, convs, norms)
        changes_shape = stride != 1 or in_channels != self.out_channels
        self.skip: Chain | None = None
        if self.join is not None and changes_shape:
            self.skip = self._projection(topology, in_channels, stride, pool_projection)
        self.after = build_chain(topology, topology.after.split(), self.out_channels, [], [])
        if self.join is not None and topology.starts_neutral:
            self._make_branch_neutral(self.join.neutral)

    def forward(self, x: Tensor, steps: Steps) -> Tensor:
        """The stream ``[T or 1, B, C, H, W]`` through one unit: ``[T, B, C', H', W']``."""
        y = self.branch(x, steps)
        if self.join is not None:
            y = self.join(branch=y, skip=x if self.skip is None else self.skip(x, steps))
        return self.after(y, steps)

    def _projection(self, topology: Topology, in_channels: int, stride: int, pool: bool) -> Chain:
        words = topology.project.split()
        if pool and stride > 1 and "pool" not in words:
            words.insert(words.index("conv"), "pool")
        norms = [topology.norm_project] * words.count("norm")
        return build_chain(topology, words, in_channels, [Conv(self.out_channels, 1, stride)], norms)

    @torch.no_grad()
    def _make_branch_neutral(self, neutral: float) -> None:
        """With its last norm's weight at 0 a branch puts out its bias: set it so that the join returns the skip."""
        *_, norm = (m for m in self.branch.children() if isinstance(m, BatchNorm))
        *_, last = self.branch.children()
        if neutral and isinstance(last, SpikingNeuron):
            norm.bias.fill_(neutral * last.current_to_fire())

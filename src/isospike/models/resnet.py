"""The model: a topology's units in a body's layout."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from isospike.errors import ConfigError
from isospike.layers import WEIGHT_INITS, BatchNorm, Chain, Steps
from isospike.models.bodies import STEMS, Layout
from isospike.models.features import FeatureInfo, checked_indices, describe
from isospike.models.head import Head
from isospike.models.network import SpikingNetwork
from isospike.neurons import build_neuron
from isospike.residual import Links, MapShape, ResidualUnit, Stage, Topology, build_chain
from isospike.residual.unit import ConvSpec


class SpikingResNet(SpikingNetwork):
    """A residual spiking network: a row in a body.

    Args:
        topology: The residual row.
        layout: Stages, widths, stem.
        num_classes: Size of the logits; 0 for a backbone that puts out pooled features.
        in_channels: Channels of the input.
        T: Time steps for static images; a call may ask for others.
    """

    def __init__(
        self, topology: Topology, layout: Layout, *, num_classes: int, in_channels: int = 3, T: int | None = None
    ) -> None:
        super().__init__(in_channels, topology.T if T is None else T)
        topology = replace(topology, T=self.T)
        self.topology, self.layout = topology, layout
        self.stem = _stem(topology, layout, in_channels)
        self.opening = build_chain(topology, topology.opening.split(), layout.stem_width, [], [])
        if STEMS[layout.stem].max_pool:
            self.opening.add_module("pool", nn.MaxPool2d(3, stride=2, padding=1))
        self.stages = nn.ModuleList()
        maps = [MapShape(layout.stem_width, 1)]
        for width, blocks, stride in zip(layout.widths, layout.blocks, layout.strides, strict=True):
            self.stages.append(_stage(topology, layout, maps, width, blocks, stride))
        channels = maps[-1].channels
        closing = topology.closing.split()
        self.closing = build_chain(topology, closing, channels, [], [topology.norm] * closing.count("norm"))
        neuron = build_neuron(topology.neuron) if layout.hidden else None
        self.head: Head = Head(channels, num_classes, dropout=layout.dropout, hidden=layout.hidden, neuron=neuron)
        for layer in (self.head.hidden, self.head.fc):
            if isinstance(layer, nn.Linear):
                WEIGHT_INITS[topology.weight_init](layer)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @property
    def num_features(self) -> int:
        """Width of what enters the classifier."""
        return self.head.features

    @property
    def feature_info(self) -> FeatureInfo:
        """Channels, reduction and module of every map of ``stage_maps``."""
        first = "opening" if len(list(self.opening.children())) else "stem"
        return describe(self.layout, first, self.stages)  # type: ignore[arg-type]

    def units(self) -> Iterator[ResidualUnit]:
        """Yield every residual unit, from the stem to the head."""
        for stage in self.stages:
            yield from stage  # type: ignore[misc]

    def forward_features(self, x: Tensor, *, T: int | None = None) -> Tensor:
        """Compute the last feature maps ``[T, B, num_features, H', W']``, before pooling; as ``forward``."""
        (features,) = self.unroll("features", x, T, lambda current, steps: [self._features(current, steps)])
        return features

    def stage_maps(self, x: Tensor, *, T: int | None = None, stages: int | None = None) -> list[Tensor]:
        """Compute what enters the first stage and what every stage puts out, ``[T, B, C, H, W]`` each.

        They are membrane currents or spikes, as the topology's stream is. ``FeatureMaps`` picks some of them.

        Args:
            x: As in ``forward``.
            T: As in ``forward``.
            stages: How many stages run; None: all.
        """

        def run(current: Tensor, steps: Steps) -> list[Tensor]:
            return [steps.unroll(output) for output in self._outputs(current, steps, stages)]

        return self.unroll(f"maps of {stages} stages", x, T, run)

    def forward_intermediates(
        self, x: Tensor, indices: Sequence[int] | None = None, *, T: int | None = None, intermediates_only: bool = False
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Compute ``(forward_features(x), maps)`` in one pass, or the maps alone, ``[T, B, C, H, W]`` each.

        Args:
            x: As in ``forward``.
            indices: Which maps of ``stage_maps``; None: all.
            T: As in ``forward``.
            intermediates_only: Leave the last feature maps out.

        Raises:
            ConfigError: there is no map with such an index.
        """
        chosen = checked_indices(indices, len(self.stages) + 1)

        def run(current: Tensor, steps: Steps) -> list[Tensor]:
            outputs = self._outputs(current, steps)
            return [steps.unroll(output) for output in (*outputs, steps.run(self.closing, outputs[-1]))]

        *maps, features = self.unroll("maps and features", x, T, run)
        maps = [maps[index] for index in chosen]
        return maps if intermediates_only else (features, maps)

    def reset_classifier(self, num_classes: int) -> None:
        """Put in a new, untrained classifier of this size, whose classes have no names yet; 0 takes it away."""
        if num_classes < 0:
            raise ConfigError(f"num_classes must be 0 or more, got {num_classes}")
        weight = next(self.parameters())
        self.options["num_classes"] = num_classes
        self.inputs = self.inputs and replace(self.inputs, classes=())
        self.head.reset(num_classes)
        if isinstance(self.head.fc, nn.Linear):
            WEIGHT_INITS[self.topology.weight_init](self.head.fc)
        self.head.to(device=weight.device, dtype=weight.dtype)

    @property
    def num_classes(self) -> int:
        """Size of the logits; 0 of a backbone."""
        return self.head.fc.out_features if isinstance(self.head.fc, nn.Linear) else 0

    @property
    def least_size(self) -> int:
        """Input pixels per pixel of the last map, to a side."""
        return self.layout.total_stride

    @property
    def knows_steps(self) -> bool:
        """Whether its norms know the time step."""
        return self.topology.per_step_norm

    def encode(self, x: Tensor, steps: Steps) -> Tensor:
        """Compute stem currents ``[T or 1, B, C, H, W]``; its channels-last weights make them channels-last."""
        return steps.run(self.stem, x)

    def decode(self, current: Tensor, steps: Steps) -> Tensor:
        """Compute logits ``[T or 1, B, num_classes]`` of stem currents ``[T or 1, B, C, H, W]``."""
        return steps.run(self.head, self._features(current, steps))

    def _outputs(self, current: Tensor, steps: Steps, stages: int | None = None) -> list[Tensor]:
        """Compute what enters the first stage, and what the first ``stages`` put out, ``[T or 1, B, C, H, W]``."""
        outputs = [steps.run(self.opening, current)]
        for stage in list(self.stages)[:stages]:
            outputs.append(steps.run(stage, outputs))
        return outputs

    def _features(self, current: Tensor, steps: Steps) -> Tensor:
        """Compute the last feature maps ``[T, B, C, H', W']`` of stem currents ``[T or 1, B, C, H, W]``."""
        return steps.run(self.closing, self._outputs(current, steps)[-1])


def _stem(topology: Topology, layout: Layout, in_channels: int) -> Chain:
    """Build convolutions and one norm: what of a static image is computed once."""
    stem = STEMS[layout.stem]
    convs = [ConvSpec(layout.stem_width, kernel, stride, stem.bias) for kernel, stride in stem.convs]
    shared = replace(topology, per_step_norm=False)  # a static image is the same at every step, and so is its norm
    chain = build_chain(shared, ["conv"] * len(convs) + ["norm"], in_channels, convs, [topology.norm])
    if not stem.input_norm:
        return chain
    scale, eps, root_eps = topology.norm.scale(topology.v_threshold), topology.norm_eps, topology.norm_root_eps
    norm = BatchNorm(in_channels, scale=scale, affine=False, eps=eps, root_eps=root_eps)
    return Chain([("input_norm", norm), *chain.named_children()])


def _stage(topology: Topology, layout: Layout, maps: list[MapShape], width: int, blocks: int, stride: int) -> Stage:
    """Build the next stage behind those that put out ``maps``, to which its own is appended."""
    before = maps[-1]
    channels, widening = before.channels, None
    if layout.pool_stages and channels != width:
        kernel, _ = STEMS[layout.stem].convs[0]
        words = ["conv", "norm", *topology.opening.split()]
        widening = build_chain(topology, words, channels, [ConvSpec(width, kernel)], [topology.norm])
        channels = width
    units = []
    for index in range(blocks):
        first = index == 0
        unit = ResidualUnit(
            replace(topology, identity="norm") if layout.norm_stages and first else topology,
            channels,
            width,
            stride=stride if first else 1,
            bottleneck=layout.bottleneck,
            pool_projection=layout.pool_projection,
            always_project=layout.project_stages and first,
        )
        channels = unit.out_channels
        units.append(unit)
    maps.append(MapShape(channels, before.stride * stride))
    links = Links.of(topology, maps)
    pool = nn.MaxPool2d(2) if layout.pool_stages else None
    return Stage(topology, units, widening=widening, links=links, pool=pool)

"""Units in a row at one resolution, and the links that reach a stage from further back."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial, reduce
from operator import add
from typing import NamedTuple

import torch
from torch import Tensor, nn

from isospike.layers import Chain, Steps
from isospike.residual.reach import COMBINES, REACHES, Combine
from isospike.residual.topology import Topology
from isospike.residual.unit import ConvSpec, ResidualUnit, build_chain


class Scale(nn.Module):
    """Multiplies what it reads by ``factor``; it is a module, so that it can be watched."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, total: Tensor, steps: Steps) -> Tensor:
        """Map ``[T or 1, B, ...]`` to the same shape."""
        return total if self.factor == 1 else total * self.factor


class Weigh(nn.Module):
    """Multiplies a term of a sum by its learned weight.

    Args:
        weights: The module that has the weights, one for each term, as ``weight``.
        index: Which of them.
    """

    def __init__(self, weights: "Sum", index: int) -> None:
        super().__init__()
        self.weights, self.index = (weights,), index  # in a tuple, because it is another module's

    @property
    def factor(self) -> Tensor:
        """The weight of the term, 0-d."""
        return self.weights[0].weight[self.index]

    def forward(self, term: Tensor, steps: Steps) -> Tensor:
        """Map ``[T or 1, B, ...]`` to the same shape."""
        return term * self.factor


class Sum(nn.Module):
    """Adds n terms and multiplies them by ``factor(n)``, where it is learned by a weight for each.

    Args:
        combine: The row.
        terms: The largest n.
    """

    weight: nn.Parameter

    def __init__(self, combine: Combine, terms: int) -> None:
        super().__init__()
        self.scales = nn.ModuleList(Scale(combine.factor(n)) for n in range(1, terms + 1))
        if combine.learned:
            self.weight = nn.Parameter(torch.ones(terms))
        self.weighs = nn.ModuleList(Weigh(self, index) for index in range(terms) if combine.learned)

    def weigh(self, term: Tensor, index: int, steps: Steps) -> Tensor:
        """Weigh the term with this index as it enters the sum."""
        return steps.run(self.weighs[index], term) if self.weighs else term

    def scale(self, total: Tensor, n: int, steps: Steps) -> Tensor:
        """Scale the sum of n terms as it is handed on."""
        return steps.run(self.scales[n - 1], total)

    def unscale(self, scaled: Tensor, n: int) -> Tensor:
        """Take the scale of a sum of n terms off again."""
        factor = float(self.scales[n - 1].factor)  # type: ignore[arg-type]
        return scaled if factor == 1 else scaled * (1 / factor)

    def forward(self, terms: Sequence[Tensor], steps: Steps) -> Tensor:
        """Add all of them at once."""
        weighed = [self.weigh(term, index, steps) for index, term in enumerate(terms)]
        return self.scale(reduce(add, weighed), len(weighed), steps)


class MapShape(NamedTuple):
    """Channels of the output of a stem or stage, and its stride relative to the output of the stem."""

    channels: int
    stride: int


class Links(nn.Module):
    """Links from earlier outputs to a stage: each passes a projection of its own, and they are combined.

    Args:
        topology: The row.
        maps: What the stem, all stages before, and the stage itself put out.
    """

    def __init__(self, topology: Topology, maps: Sequence[MapShape]) -> None:
        super().__init__()
        self.reach = REACHES[topology.reach]
        sources = self.reach.sources(len(maps) - 1)
        words = self.reach.words.split()
        if words[-1] != "spike":
            words += topology.opening.split()
        own = maps[-1]
        for source in sources:
            conv = ConvSpec(own.channels, 1, own.stride // maps[source].stride)
            chain = build_chain(topology, words, maps[source].channels, [conv], [topology.norm_project])
            self.add_module(str(source), chain)
        self.sum = Sum(COMBINES[topology.combine], len(sources))

    @staticmethod
    def of(topology: Topology, maps: Sequence[MapShape]) -> "Links | None":
        """Build the links of the last stage of ``maps``, None where its row has none for it."""
        return Links(topology, maps) if REACHES[topology.reach].sources(len(maps) - 1) else None

    def chains(self) -> Iterator[tuple[int, Chain]]:
        """Yield every source, and what it passes through."""
        for name, module in self.named_children():
            if isinstance(module, Chain):
                yield int(name), module

    def forward(self, outputs: Sequence[Tensor], steps: Steps) -> Tensor:
        """Map outputs ``[T or 1, B, C, H, W]`` of stem and stages to one term of the shape of the stage's own."""
        return steps.run(self.sum, [steps.run(chain, outputs[source]) for source, chain in self.chains()])


class Stage(nn.Module):
    """Units of one width; the first may change the resolution.

    With a ``combine`` other than "sum", and no links, every unit reads ``factor(n)`` times the sum of the n outputs
    of the stage so far, the (projected) input being the first of them.

    Args:
        topology: The row.
        units: At least one.
        widening: What makes the stream as wide as units that cannot.
        links: What reaches the stage from further back.
        pool: The layer that ends the stage.
    """

    def __init__(
        self,
        topology: Topology,
        units: Sequence[ResidualUnit],
        *,
        widening: Chain | None = None,
        links: Links | None = None,
        pool: nn.Module | None = None,
    ) -> None:
        super().__init__()
        for index, unit in enumerate(units):
            self.add_module(str(index), unit)
        self.widening, self.links, self.pool = widening, links, pool
        combine = COMBINES[topology.combine]
        combines_units = combine.changes_sum and not REACHES[topology.reach].links
        self.sum = Sum(combine, len(units) + 1) if combines_units else None

    def __iter__(self) -> Iterator[ResidualUnit]:
        return (module for module in self.children() if isinstance(module, ResidualUnit))

    def __getitem__(self, index: int) -> ResidualUnit:
        return [*self][index]

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def forward(self, outputs: Sequence[Tensor], steps: Steps) -> Tensor:
        """Map the outputs ``[T or 1, B, C, H, W]`` of the stem and the stages before to that of this stage."""
        x = outputs[-1] if self.widening is None else steps.run(self.widening, outputs[-1])
        links = self.links
        maps = [unit_map for _, unit_map in self.maps(steps)]
        if links is not None and not links.reach.at_end:
            x = steps.in_turn(maps[:1], x) + steps.run(links, outputs)
            maps = maps[1:]
        x = steps.in_turn(maps, x)
        if links is not None and links.reach.at_end:
            x = x + steps.run(links, [*outputs, x])
        return x if self.pool is None else steps.through(self.pool, x)

    def maps(self, steps: Steps) -> Iterator[tuple[ResidualUnit, Callable[[Tensor], Tensor]]]:
        """Yield every unit, and the map from what it reads to what the next one reads, but for links."""
        for index, unit in enumerate(self):
            yield unit, partial(self._map, unit, index, steps)

    def _map(self, unit: ResidualUnit, index: int, steps: Steps, x: Tensor) -> Tensor:
        if self.sum is None:
            return steps.run(unit, x)
        branch, skip = unit.parts(x, steps)
        total = self.sum.unscale(x, index + 1) if index else self.sum.weigh(skip, 0, steps)
        return self.sum.scale(total + self.sum.weigh(branch, index + 1, steps), index + 2, steps)

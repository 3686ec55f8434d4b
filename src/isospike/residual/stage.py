"""Units in a row at one resolution, and the links that reach a stage from further back."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial, reduce
from itertools import pairwise
from operator import add
from typing import NamedTuple

import torch
from torch import Tensor, nn

from isospike.layers import MEMORY, Chain, Steps, recomputed
from isospike.neurons import Neuron
from isospike.residual.reach import COMBINES, REACHES, Combine
from isospike.residual.topology import Topology
from isospike.residual.unit import Conv, ResidualUnit, build_chain


class Scale(nn.Module):
    """The sum of n terms as it is handed on: ``factor(n)`` times it; a module, so that it can be watched."""

    def __init__(self, combine: Combine) -> None:
        super().__init__()
        self.combine = combine

    def forward(self, total: Tensor, n: int) -> Tensor:
        """Of the shape of ``total``."""
        return total if self.combine.power == 0 else total * self.combine.factor(n)


class Sum(nn.Module):
    """``factor(n)`` times the sum of n terms, where it is learned with a weight for each.

    Args:
        combine: The row.
        terms: The largest n.
    """

    def __init__(self, combine: Combine, terms: int) -> None:
        super().__init__()
        self.combine, self.scale = combine, Scale(combine)
        self.weight = nn.Parameter(torch.ones(terms)) if combine.learned else None

    def weigh(self, term: Tensor, index: int) -> Tensor:
        """The term with this index as it enters the sum."""
        return term if self.weight is None else term * self.weight[index]

    def unscale(self, scaled: Tensor, n: int) -> Tensor:
        """The sum of n terms from how it was handed on."""
        return scaled if self.combine.power == 0 else scaled / self.combine.factor(n)

    def forward(self, terms: Iterable[Tensor]) -> Tensor:
        """All of them at once."""
        weighed = [self.weigh(term, index) for index, term in enumerate(terms)]
        return self.scale(reduce(add, weighed), len(weighed))


class Map(NamedTuple):
    """What stem and stages put out: channels, and how many pixels behind the stem make one of it, to a side."""

    channels: int
    stride: int


class Links(nn.Module):
    """What reaches a stage from further back: each source through a projection of its own, then combined.

    Args:
        topology: The row.
        maps: What the stem, all stages before, and the stage itself put out.
    """

    def __init__(self, topology: Topology, maps: Sequence[Map]) -> None:
        super().__init__()
        self.reach = REACHES[topology.reach]
        sources = self.reach.sources(len(maps) - 1)
        words = self.reach.words.split()
        if words[-1] != "spike":
            words += topology.opening.split()
        own = maps[-1]
        for source in sources:
            conv = Conv(own.channels, 1, own.stride // maps[source].stride)
            chain = build_chain(topology, words, maps[source].channels, [conv], [topology.norm_project])
            self.add_module(str(source), chain)
        self.sum = Sum(COMBINES[topology.combine], len(sources))

    @staticmethod
    def of(topology: Topology, maps: Sequence[Map]) -> "Links | None":
        """The links of the last stage of ``maps``, None where its row has none for it."""
        return Links(topology, maps) if REACHES[topology.reach].sources(len(maps) - 1) else None

    def chains(self) -> Iterator[tuple[int, Chain]]:
        """Every source, and what it passes through."""
        for name, module in self.named_children():
            if isinstance(module, Chain):
                yield int(name), module

    def forward(self, outputs: Sequence[Tensor], steps: Steps) -> Tensor:
        """Outputs ``[T or 1, B, C, H, W]`` of stem and stages to one term of the shape of the stage's own."""
        return self.sum(chain(outputs[source], steps) for source, chain in self.chains())


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
        for index, (unit, following) in enumerate(pairwise(units)):
            if self.sum is None and not (index == 0 and links is not None and not links.reach.at_end):
                unit.read_by(following.opening_neuron())

    def read_by(self, neuron: Neuron | None) -> None:
        """Say which neuron reads what the stage puts out; see ``ResidualUnit.read_by``."""
        nothing_behind = self.sum is None and self.pool is None and (self.links is None or not self.links.reach.at_end)
        if nothing_behind and (len(self) > 1 or self.links is None):
            self[-1].read_by(neuron)

    def opening_neuron(self) -> Neuron | None:
        """The neuron that reads the stream before all else, if there is one."""
        return self[0].opening_neuron() if self.widening is None else None

    def __iter__(self) -> Iterator[ResidualUnit]:
        return (module for module in self.children() if isinstance(module, ResidualUnit))

    def __getitem__(self, index: int) -> ResidualUnit:
        return [*self][index]

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def forward(self, outputs: Sequence[Tensor], steps: Steps) -> Tensor:
        """What stem and stages before put out ``[T or 1, B, C, H, W]`` to what this one does."""
        x = outputs[-1] if self.widening is None else self.widening(outputs[-1], steps)
        links = self.links
        maps = [unit_map for _, unit_map in self.maps(steps)]
        if links is not None and not links.reach.at_end:
            x = _through(maps[:1], x, steps) + links(outputs, steps)
            maps = maps[1:]
        x = _through(maps, x, steps)
        if links is not None and links.reach.at_end:
            x = x + links([*outputs, x], steps)
        return x if self.pool is None else steps.through(self.pool, x)

    def maps(self, steps: Steps) -> Iterator[tuple[ResidualUnit, Callable[[Tensor], Tensor]]]:
        """Every unit, and the map from what it reads to what the next one reads, but for links."""
        for index, unit in enumerate(self):
            yield unit, partial(self._map, unit, index, steps)

    def _map(self, unit: ResidualUnit, index: int, steps: Steps, x: Tensor) -> Tensor:
        outputs = self.sum
        if outputs is None:
            return unit(x, steps)
        branch, skip = unit.parts(x, steps)
        total = outputs.unscale(x, index + 1) if index else outputs.weigh(skip, 0)
        return outputs.scale(total + outputs.weigh(branch, index + 1), index + 2)


def _through(maps: Sequence[Callable[[Tensor], Tensor]], x: Tensor, steps: Steps) -> Tensor:
    """``x`` through all maps, as many of them computed anew in the backward pass at a time as ``steps.memory`` says."""
    together = MEMORY[steps.memory](len(maps)) if torch.is_grad_enabled() else 0
    if not together:
        return _compose(maps, x)
    for first in range(0, len(maps), together):
        x = recomputed(partial(_compose, maps[first : first + together]), x)
    return x


def _compose(maps: Sequence[Callable[[Tensor], Tensor]], x: Tensor) -> Tensor:
    for unit_map in maps:
        x = unit_map(x)
    return x

"""What flows through a network while it runs: firing by neuron and step, and the stream behind every unit.

Statistics are summed as the batches go by; no spikes are stored. What stays of a batch is one bit per neuron and
sample, until its last step, for the neurons that are dormant at all steps.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from isospike.analysis.instrument import Instrument, starts_from_rest, sum_over_batch
from isospike.errors import ConfigError
from isospike.layers.statistics import Statistics
from isospike.neurons import Neuron, SpikingNeuron, is_recurrence
from isospike.ops import FireRule
from isospike.ops.reference import advance, rest
from isospike.residual import ResidualUnit, Stage


@dataclass(frozen=True)
class NeuronFlow:
    """One population of neurons. Tuples are by time step.

    Args:
        name: Its name in the model.
        neurons: How many neurons one sample has there.
        rate: What a neuron puts out on average: the share that fires or, with several levels, the mean count.
        histogram: Share of outputs 0, 1, ..., levels, over all steps.
        silent: Share of neurons that never fired, at no step of no sample.
        saturated: Share of neurons that put out their largest number at every step of every sample.
        open: Share of potentials at which the derivative that the backward pass takes is not 0; with several levels
            every level has a potential. None where the neuron has no such derivative, or a ``forward`` of its own.
        dormant: Share of neurons without an open potential.
        dormant_throughout: Share of neurons and samples without an open potential at any step.
    """

    name: str
    neurons: int
    rate: tuple[float, ...]
    histogram: tuple[float, ...]
    silent: float
    saturated: float
    open: tuple[float, ...] | None
    dormant: tuple[float, ...] | None
    dormant_throughout: float | None

    @property
    def mean_rate(self) -> float:
        """The rate over all steps."""
        return sum(self.rate) / len(self.rate)


@dataclass(frozen=True)
class UnitFlow:
    """What one residual unit puts out, before links from other stages are added; tuples are by time step.

    Args:
        name: Its name in the model.
        mean: Over samples, channels and pixels.
        variance: Likewise, biased.
        largest: The largest number.
    """

    name: str
    mean: tuple[float, ...]
    variance: tuple[float, ...]
    largest: tuple[float, ...]


@dataclass(frozen=True)
class Flow:
    """All that a ``Watch`` saw.

    Args:
        samples: Sequences that were started.
        T: Time steps of the longest.
        neurons: In the order of the network.
        units: Likewise.
    """

    samples: int
    T: int
    neurons: tuple[NeuronFlow, ...]
    units: tuple[UnitFlow, ...]

    @property
    def spikes_per_neuron(self) -> float:
        """Spikes of a neuron per sample, over all steps; an integer output counts as so many spikes."""
        spikes = sum(n.neurons * sum(n.rate) for n in self.neurons)
        return spikes / sum(n.neurons for n in self.neurons)

    def as_dict(self) -> dict[str, Any]:
        """Return all of it for ``analysis/flow.json``."""
        return {**asdict(self), "spikes_per_neuron": self.spikes_per_neuron}


class Watch(Instrument):
    """Counts while its ``with`` block runs, in training and in eval mode alike.

        with iso.watch(model) as seen:
            model(images)
        seen.flow().spikes_per_neuron

    Args:
        model: The model.
        potentials: Count open and dormant potentials as well. The recurrence does not hand out the potentials before
            the reset, so they are computed again from the current: that is most of the work of watching.

    Raises:
        ConfigError: the model has no spiking neuron; while it runs: a batch holds numbers that are not finite.
    """

    def __init__(self, model: nn.Module, *, potentials: bool = True) -> None:
        super().__init__(model)
        self._firing = {neuron: _Firing(neuron, potentials) for neuron in self.neurons.values()}
        self._streams: dict[str, _Stream] = {}
        self._step = 0  # of the neuron that was called last: all of a pass are at the same one

    def flow(self) -> Flow:
        """Return all that was counted so far.

        Raises:
            ConfigError: nothing ran, or a stream was not finite.
        """
        seen = [(name, self._firing[neuron]) for name, neuron in self.neurons.items() if self._firing[neuron].spikes]
        if not seen:
            raise ConfigError("nothing was watched: call the model inside the with block")
        neurons = tuple(firing.result(name) for name, firing in seen)
        units = tuple(stream.result(name) for name, stream in self._streams.items())
        first = seen[0][1]
        return Flow(first.samples, len(first.spikes), neurons, units)

    def _hooks(self) -> Iterable[RemovableHandle]:
        yield from (neuron.register_forward_hook(self._see_neuron) for neuron in self._firing)
        # Units of a stage that sums them up hand no stream on; it is what their sum is scaled to.
        for name, module in self.model.named_modules():
            if isinstance(module, ResidualUnit):
                yield module.register_forward_hook(self._unit_hook(name))
            elif isinstance(module, Stage) and module.sum is not None:
                for index, scale in enumerate(list(module.sum.scales)[1:]):
                    yield scale.register_forward_hook(self._unit_hook(f"{name}.{index}"))

    @torch.no_grad()
    def _see_neuron(self, neuron: nn.Module, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        assert isinstance(neuron, Neuron)
        self._step = self._firing[neuron].add(inputs, output[0])

    def _unit_hook(self, name: str) -> Callable[[nn.Module, Any, Tensor], None]:
        return lambda _, __, output: self._see_stream(name, output)

    @torch.no_grad()
    def _see_stream(self, name: str, output: Tensor) -> None:
        self._streams.setdefault(name, _Stream()).add(output, self._step)


def watch(model: nn.Module, *, potentials: bool = True) -> Watch:
    """Make a ``Watch`` on ``model``."""
    return Watch(model, potentials=potentials)


def potentials(neuron: SpikingNeuron, x: Tensor, v: Tensor | None = None) -> Iterator[Tensor]:
    """Yield the potential before the reset at every step of a current.

    Args:
        neuron: The neuron.
        x: Current ``[T, B, ...]``.
        v: Potential before the first step; None: rest.

    Yields:
        ``[B, ...]``, or ``[levels, B, ...]`` where every level has a potential of its own.
    """
    decay, gain = neuron.coefficients()
    v = rest(x, neuron.rule) if v is None else v
    for x_t in x:
        h, _, v = advance(x_t, v, decay=decay, gain=gain, rule=neuron.rule)
        yield h


class _Firing:
    """Sums of one population; lists are by time step."""

    def __init__(self, neuron: Neuron, measured: bool) -> None:
        self.levels, self.signed = neuron.levels or 1, neuron.signed
        self.measured = neuron if measured and is_recurrence(neuron) else None
        rule = neuron.rule if isinstance(neuron, SpikingNeuron) else None
        self.several_potentials = isinstance(rule, FireRule) and bool(rule.higher)
        self.samples = 0
        self.step = 0  # of the next call
        self.outputs: list[int] = []
        self.spikes: list[Tensor] = []
        self.reached: list[Tensor | int] = [0] * (self.levels - 1)  # outputs of at least 2, 3, ...
        self.open: list[Tensor | int] = []
        self.dormant: list[Tensor | int] = []
        self.always_dormant: Tensor | int = 0
        self.per_neuron: Tensor | None = None
        self.opened: Tensor | None = None  # in the sequence that runs, for every neuron and sample

    def add(self, inputs: tuple[Any, ...], s: Tensor) -> int:
        """Add the outputs ``[T, B, ...]`` of one call; return the step of the first."""
        if starts_from_rest(inputs):
            self._end_sequence()
            self.step, self.samples = 0, self.samples + s.shape[1]
        first, self.step = self.step, self.step + len(s)
        for step, s_t in enumerate(s, first):
            self._add_spikes(step, s_t)
        if self.measured is not None:
            for step, h in enumerate(potentials(self.measured, *inputs), first):
                self._add_potentials(self.measured, step, h)
        return first

    def _add_spikes(self, step: int, s: Tensor) -> None:
        s = s.abs() if self.signed else s
        per_neuron = sum_over_batch(s).double()
        if self.per_neuron is not None and self.per_neuron.shape != per_neuron.shape:
            raise ConfigError(
                f"one watch takes images of one size: a map of {list(self.per_neuron.shape)} neurons became "
                f"{list(per_neuron.shape)}; begin another watch"
            )
        self.per_neuron = per_neuron if self.per_neuron is None else self.per_neuron + per_neuron
        if step == len(self.outputs):
            self.outputs.append(0)
            self.spikes.append(torch.zeros_like(per_neuron.sum()))
        self.outputs[step] += s.numel()
        self.spikes[step] = self.spikes[step] + per_neuron.sum()
        self.reached = [total + (s >= level).count_nonzero() for level, total in enumerate(self.reached, 2)]

    def _add_potentials(self, neuron: SpikingNeuron, step: int, h: Tensor) -> None:
        mask = neuron.rule.slope(h) != 0
        opened = mask.any(0) if self.several_potentials else mask
        if step == len(self.open):
            self.open.append(0)
            self.dormant.append(0)
        self.open[step] = self.open[step] + mask.count_nonzero()
        self.dormant[step] = self.dormant[step] + opened.numel() - opened.count_nonzero()
        self.opened = opened if self.opened is None else self.opened | opened

    def _end_sequence(self) -> None:
        if self.opened is not None:
            self.always_dormant = self.always_dormant + self.opened.numel() - self.opened.count_nonzero()
            self.opened = None

    def result(self, name: str) -> NeuronFlow:
        """Return all sums as shares."""
        assert self.per_neuron is not None
        self._end_sequence()
        neurons, total = self.per_neuron.numel(), sum(self.outputs)
        reached = [total, sum(map(int, self.spikes)) - sum(map(int, self.reached)), *map(int, self.reached), 0]
        most = self.levels * total / neurons
        known = bool(self.open)
        return NeuronFlow(
            name=name,
            neurons=neurons,
            rate=tuple(float(n) / count for n, count in zip(self.spikes, self.outputs, strict=True)),
            histogram=tuple((a - b) / total for a, b in pairwise(reached)),
            silent=int((self.per_neuron == 0).count_nonzero()) / neurons,
            saturated=int((self.per_neuron == most).count_nonzero()) / neurons,
            open=self._shares(self.open, self.levels if self.several_potentials else 1) if known else None,
            dormant=self._shares(self.dormant, 1) if known else None,
            dormant_throughout=float(self.always_dormant) / (neurons * self.samples) if known else None,
        )

    def _shares(self, counts: list[Tensor | int], each: int) -> tuple[float, ...]:
        return tuple(float(n) / (outputs * each) for n, outputs in zip(counts, self.outputs, strict=True))


class _Stream:
    """Sums of one stream; lists are by time step."""

    def __init__(self) -> None:
        self.seen: list[Statistics] = []
        self.largest: list[Tensor] = []

    def add(self, x: Tensor, first: int) -> None:
        """Add ``[T, B, ...]``, whose first time step is ``first``."""
        for step, x_t in enumerate(x.float() if x.dtype in (torch.float16, torch.bfloat16) else x, first):
            mean, largest = x_t.mean(), x_t.amax()
            variance = (x_t - mean).square_().mean()  # several times faster than torch.var
            now = Statistics.from_biased(x_t.numel(), mean.double(), variance.double())
            if step == len(self.seen):
                self.seen.append(now)
                self.largest.append(largest)
            else:
                self.seen[step] = self.seen[step].join(now)
                self.largest[step] = torch.maximum(self.largest[step], largest)

    def result(self, name: str) -> UnitFlow:
        """Return all sums as means."""
        mean = tuple(float(now.mean) for now in self.seen)
        variance = tuple(float(now.biased_var) for now in self.seen)
        if not all(map(math.isfinite, variance)):
            raise ConfigError(
                f"what '{name}' puts out is not finite: the weights are not, or this network has diverged"
            )
        return UnitFlow(name, mean, variance, tuple(map(float, self.largest)))

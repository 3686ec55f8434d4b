"""The operations of every layer with weights, counted from what it reads while the network runs."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from isospike.analysis.instrument import Instrument, starts_from_rest, sum_over_batch
from isospike.errors import ConfigError
from isospike.graph import Call, Conv, promised_domains, timed_values
from isospike.models import Domain, ProgramNet, SpikingNetwork
from isospike.neurons import SpikingNeuron

Weighted = nn.Conv2d | nn.Linear


@dataclass(frozen=True)
class LayerWork:
    """One convolution or linear layer; all counts are per sample and over all its time steps.

    Args:
        layer: Its name in the model.
        group: "stem", "stage 1" and so on, "projections" or "head"; of a network without a row "stem" for what runs
            before time begins, else the first part of its name.
        reads: What its row promises that it reads.
        runs: How often it runs: once per static image or once per step.
        dense: Multiply-accumulates as they are usually counted: every kernel position at every output pixel, the zeros
            of the padding included.
        inside: Those of them whose input lies in the image and not in the padding.
        operations: Those of them whose input was not 0.
        graded: The same, an integer input k counting k times.
        inputs: Numbers that one run reads.
        weights: Numbers in the weight.
    """

    layer: str
    group: str
    reads: Domain
    runs: float
    dense: float
    inside: float
    operations: float
    graded: float
    inputs: float
    weights: int

    @property
    def is_real(self) -> bool:
        """Whether it reads real numbers, so that each of its operations is a multiply-accumulate."""
        return self.reads.largest is None

    @property
    def macs(self) -> float:
        """Multiply-accumulates: the operations of a layer that reads real numbers."""
        return self.operations if self.is_real else 0.0

    @property
    def acs(self) -> float:
        """Accumulates: the operations of a layer that reads spikes or counts of them."""
        return 0.0 if self.is_real else self.operations

    @property
    def graded_acs(self) -> float:
        """Accumulates where a count of k takes k of them."""
        return 0.0 if self.is_real else self.graded

    def as_dict(self) -> dict[str, Any]:
        """Return all of it as plain values, for JSON; what is derived is included."""
        derived = {"reads": str(self.reads), "macs": self.macs, "acs": self.acs, "graded_acs": self.graded_acs}
        return {**asdict(self), **derived}


@dataclass(frozen=True)
class Work:
    """What a network did per sample.

    Args:
        samples: Samples it is the mean of.
        T: Time steps.
        static: Whether the stem ran once per sample, on a static image.
        layers: In the order of the network.
        neurons: Spiking neurons.
        spikes: Spikes of all of them; an integer output counts as so many.
        potentials: Numbers that they remember from step to step.
        leaky: Those of them that leak.
    """

    samples: int
    T: int
    static: bool
    layers: tuple[LayerWork, ...]
    neurons: int
    spikes: float
    potentials: int
    leaky: int


class OperationCounter(Instrument):
    """Counts the operations of a model while its ``with`` block runs, in either mode.

    A count is exact: an input pixel is read once for every kernel position that some output pixel puts over it, and
    how many these are is known from the shapes; so one sum over samples and channels tells what a layer did.

    Args:
        model: The model.

    Raises:
        ConfigError: it is none of ours, or has no spiking neuron; while it runs: a batch holds numbers that are not
            finite.
    """

    def __init__(self, model: SpikingNetwork) -> None:
        if not isinstance(model, SpikingNetwork):
            raise ConfigError(
                f"operations are counted of a SpikingNetwork, whose program says what its layers read, not of a "
                f"{type(model).__name__}"
            )
        super().__init__(model)
        self.promises = promised_domains(model)
        self._stem = _before_time(model) if isinstance(model, ProgramNet) else set()
        self._counts = {
            layer: _Count(layer, self.promises[layer])
            for layer in model.modules()
            if isinstance(layer, Weighted) and layer in self.promises
        }
        self._populations = {neuron: _Population() for neuron in self.neurons.values()}
        # The latest spikes and their sum over the batch: most often the next layer reads just these.
        self._last: tuple[Tensor | None, Tensor | None] = (None, None)

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        self._last = (None, None)

    def work(self) -> Work:
        """Return all that was counted so far, per sample.

        Raises:
            ConfigError: nothing ran.
        """
        populations = [(n, p) for n, p in self._populations.items() if p.samples]
        if not populations:
            raise ConfigError("nothing was counted: call the model inside the with block")
        first = populations[0][1]
        T = round(first.steps / first.samples)
        names = {module: name for name, module in self.model.named_modules()}
        counted = [c for c in self._counts.values() if c.runs]
        layers = tuple(c.result(names[c.layer], first.samples, c.layer in self._stem) for c in counted)
        held = [(p.neurons * _potentials_of(n), _leaks(n)) for n, p in populations]
        return Work(
            samples=first.samples,
            T=T,
            static=T == 1 or all(layer.runs == 1 for layer in layers if layer.group == "stem"),
            layers=layers,
            neurons=sum(p.neurons for _, p in populations),
            spikes=sum(float(p.spikes) for _, p in populations) / first.samples,
            potentials=sum(n for n, _ in held),
            leaky=sum(n for n, leaks in held if leaks),
        )

    def _hooks(self) -> Iterable[RemovableHandle]:
        yield from (layer.register_forward_hook(self._see_layer) for layer in self._counts)
        yield from (neuron.register_forward_hook(self._see_neuron) for neuron in self._populations)

    @torch.no_grad()
    def _see_layer(self, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        x = inputs[0].flatten(0, -2) if isinstance(layer, nn.Linear) else inputs[0]
        spikes, sums = self._last
        is_last = spikes is not None and (x.data_ptr(), x.numel()) == (spikes.data_ptr(), spikes.numel())
        self._counts[layer].add(x, output, sums if is_last else None)  # type: ignore[index]

    @torch.no_grad()
    def _see_neuron(self, neuron: nn.Module, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        s = output[0]
        sums = sum_over_batch((s.abs() if neuron.signed else s).flatten(0, 1))
        self._last = s, sums
        self._populations[neuron].add(s, sums, starts_from_rest(inputs))  # type: ignore[index]


def _before_time(model: ProgramNet) -> set[nn.Module]:
    """Return the layers that run once for a static image."""
    timed = timed_values(model.program.operations)
    return {op.module for op in model.program.operations if isinstance(op, Conv | Call) and op.out not in timed}


def group_of(name: str) -> str:
    """Return the part of the network that a layer belongs to; a link over stages is a projection."""
    parts = name.split(".")
    if {"skip", "links"} & set(parts):
        return "projections"
    return f"stage {int(parts[1]) + 1}" if parts[0] == "stages" else parts[0]


def times_read(size: int, kernel: int, stride: int, padding: int, dilation: int, outputs: int) -> Tensor:
    """Count the pairs of kernel position and output that read each input along one side: int64 ``[size]``."""
    read = torch.arange(outputs).view(-1, 1) * stride + torch.arange(kernel) * dilation - padding
    return torch.bincount(read[(read >= 0) & (read < size)], minlength=size)


class _Count:
    """Sums of one layer over all that it has seen."""

    def __init__(self, layer: Weighted, reads: Domain) -> None:
        self.layer, self.reads = layer, reads
        self.runs = self.dense = self.inside = self.inputs = 0
        self.operations: Tensor | float = 0.0
        self.graded: Tensor | float = 0.0
        self._maps: dict[tuple[int, ...], Tensor] = {}

    def add(self, x: Tensor, output: Tensor, sums: Tensor | None) -> None:
        """Count one call on ``[N, ...]``, with the sums of ``x`` over N where they are known."""
        weight = self.layer.weight
        per_input = weight.shape[0] // getattr(self.layer, "groups", 1)  # output channels that read an input channel
        each = self._uses(x, output)
        self.runs += len(x)
        self.inputs += x.numel()
        self.dense += output.numel() * (weight.numel() // weight.shape[0])
        self.inside += int(each.sum()) * (x.numel() // each.numel()) * per_input
        bound = self.reads.largest
        if self.reads.signed:
            x = x.abs()
        if bound is None:
            graded = operations = _times_used(sum_over_batch(x.ne(0).to(x.dtype)), each)
        else:
            graded = operations = _times_used(sum_over_batch(x) if sums is None else sums, each)
            if bound > 1:
                operations = _times_used(sum_over_batch(x.clamp(max=1)), each)
        self.graded = self.graded + graded * per_input
        self.operations = self.operations + operations * per_input

    def _uses(self, x: Tensor, output: Tensor) -> Tensor:
        """Count the operations per output channel that each input takes part in: float64 ``[H, W]``, or ``[1]``."""
        layer = self.layer
        if not isinstance(layer, nn.Conv2d):
            return torch.ones(1, dtype=torch.float64, device=x.device)
        size, out = x.shape[-2:], output.shape[-2:]
        if (*size, *out) not in self._maps:
            assert not isinstance(layer.padding, str)
            shape = zip(size, layer.kernel_size, layer.stride, layer.padding, layer.dilation, out, strict=True)
            rows, columns = (times_read(*side) for side in shape)
            self._maps[(*size, *out)] = torch.outer(rows, columns).to(x.device, torch.float64)
        return self._maps[(*size, *out)]

    def result(self, name: str, samples: int, is_stem: bool = False) -> LayerWork:
        """Return the counts per sample."""
        return LayerWork(
            layer=name,
            group="stem" if is_stem else group_of(name),
            reads=self.reads,
            runs=self.runs / samples,
            dense=self.dense / samples,
            inside=self.inside / samples,
            operations=float(self.operations) / samples,
            graded=float(self.graded) / samples,
            inputs=self.inputs / self.runs,
            weights=self.layer.weight.numel(),
        )


def _times_used(counts: Tensor, each: Tensor) -> Tensor:
    """Sum counts ``[C, H, W]`` or ``[features]``, weighted by the uses of their place."""
    return (counts.double() * each).sum()


class _Population:
    """Sums of one population of neurons."""

    def __init__(self) -> None:
        self.samples = self.steps = self.neurons = 0
        self.spikes: Tensor | float = 0.0

    def add(self, s: Tensor, sums: Tensor, begins: bool) -> None:
        """Add the outputs ``[T, B, ...]`` of one call, and their sums over T and B."""
        self.samples += s.shape[1] if begins else 0
        self.steps += s.shape[0] * s.shape[1]
        self.neurons = s[0, 0].numel()
        self.spikes = self.spikes + sums.sum(dtype=torch.float64)


def _potentials_of(neuron: nn.Module) -> int:
    """Count the potentials of one neuron."""
    shape = neuron.rule.state_shape(()) if isinstance(neuron, SpikingNeuron) else ()
    return shape[0] if shape else 1


def _leaks(neuron: nn.Module) -> bool:
    decay = neuron.coefficients()[0] if isinstance(neuron, SpikingNeuron) else 0.0
    return isinstance(decay, Tensor) or decay != 1

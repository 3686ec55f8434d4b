"""Where the error of a converted network comes from: layer by layer, part by part, and after every number of steps."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from isospike.analysis.energy import measure_energy
from isospike.conversion import accuracy_by_step, capture, decisions_of
from isospike.conversion.activations import rectifier_of, run_through
from isospike.errors import ConfigError
from isospike.inference import EarlyExit
from isospike.models import ProgramNet
from isospike.neurons import Neuron

BATCH = 32  # images whose maps a core's cache holds
PARTS = ("clipping", "quantisation", "unevenness", "inherited")
LAYER_IMAGES, ENERGY_IMAGES = 128, 32  # enough for means over maps; accuracy takes all images
AGREEMENT = 0.99  # of early exit with all steps, on the calibration images

REMEDIES = {
    "clipping": "its largest activations are cut off: a higher quantile or thresholds per channel give it more room",
    "quantisation": "it rounds otherwise than the ANN: more steps or neurons of several levels are finer, and an ANN "
    "trained with QCFS is met at T = L",
    "unevenness": "its spikes come unevenly in time: more steps, calibrated biases or neurons of several levels help",
}


@dataclass(frozen=True)
class LayerError:
    """What one layer of neurons puts out beside what its rectifier does in the ANN.

    All errors are root mean squares over images and neurons, as shares of that of the activation. The error is the sum
    of its four parts for every neuron, and so its square is not the sum of their squares.

    Args:
        name: Of the neurons in the converted network.
        activation: Root mean square of the activation in the ANN, in its units.
        error: Of the mean over T steps.
        clipping: Of the activation cut off at what the neuron can put out.
        quantisation: Of what the neuron makes of the ANN's current, given evenly, beside the clipped activation.
        unevenness: Of what it puts out beside what it would of its own mean current, given evenly.
        inherited: Of what it would put out of its own mean current beside that of the ANN, given evenly: errors of the
            layers before it, and what corrects them.
        own: Of the first three together: what the layer adds.
        correlation: Of activation and output over images and neurons; None where one of them is constant.
    """

    name: str
    activation: float
    error: float
    clipping: float
    quantisation: float
    unevenness: float
    inherited: float
    own: float
    correlation: float | None

    @property
    def largest_part(self) -> str:
        """Which of the three own parts is the largest."""
        return max(PARTS[:3], key=lambda part: float(getattr(self, part)))


@dataclass(frozen=True)
class StepEnergy:
    """What T steps take: millijoules per image, and spikes per neuron."""

    T: int
    mj: float
    spikes_per_neuron: float


@dataclass(frozen=True)
class EarlyExitResult:
    """Samples that leave when they are decided: accuracy, and steps on average.

    Args:
        agreement: Share of calibration images that keep the class of all steps.
        images: Test images.
        accuracy: On them.
        average_steps: Likewise.
    """

    agreement: float
    images: int
    accuracy: float
    average_steps: float


@dataclass(frozen=True)
class ConversionReport:
    """A converted network beside its ANN.

    Args:
        loss: The share of accuracy that may be lost.
        images: How many the accuracies are of.
        ann_accuracy: Of the ANN.
        accuracy: After 1, 2, ... T steps.
        layers: After T steps, in the order of the network.
        ann_mj: Millijoules that the ANN takes for an image, dense.
        energy: At some numbers of steps, the last of them T.
        early_exit: None where there were no images to calibrate it on.
    """

    loss: float
    images: int
    ann_accuracy: float
    accuracy: tuple[float, ...]
    layers: tuple[LayerError, ...]
    ann_mj: float
    energy: tuple[StepEnergy, ...]
    early_exit: EarlyExitResult | None = None

    @property
    def steps(self) -> int:
        """The largest number of steps."""
        return len(self.accuracy)

    @property
    def steps_needed(self) -> int | None:
        """The smallest number of steps from which on no accuracy is more than ``loss`` below the ANN's; None: none."""
        bound = self.ann_accuracy - self.loss - 1e-9  # shares of images are rounded
        below = [t for t, accuracy in enumerate(self.accuracy, start=1) if accuracy < bound]
        first = below[-1] + 1 if below else 1
        return first if first <= self.steps else None

    @property
    def costliest(self) -> LayerError:
        """The layer that adds the largest error of its own."""
        return max(self.layers, key=lambda layer: layer.own)

    @property
    def recommendation(self) -> list[str]:
        """What to take and what to look at, in sentences."""
        return [self._steps_in_words(), self._layer_in_words(), self._energy_in_words()]

    def as_dict(self) -> dict[str, Any]:
        """For ``analysis/conversion.json``."""
        derived = {"T": self.steps, "smallest_T": self.steps_needed, "costliest": self.costliest.name}
        return {**asdict(self), **derived, "recommendation": self.recommendation}

    def _steps_in_words(self) -> str:
        points = "point" if self.loss == 0.01 else "points"
        bound, each = f"{100 * self.loss:.3g} {points}", f"one of the {self.images:,} images is {100 / self.images:.2g}"
        if self.steps_needed is not None:
            return (
                f"T={self.steps_needed} is the smallest number of steps from which on at most {bound} are lost: "
                f"{self.accuracy[self.steps_needed - 1]:.2%}, where the ANN has {self.ann_accuracy:.2%} ({each})."
            )
        best = max(range(self.steps), key=lambda t: self.accuracy[t])
        return (
            f"No number of steps up to T={self.steps} keeps within {bound} of the ANN's {self.ann_accuracy:.2%}: the "
            f"best is {self.accuracy[best]:.2%} at T={best + 1} ({each}). Take more steps, several "
            "levels or another method."
        )

    def _layer_in_words(self) -> str:
        layer = self.costliest
        return (
            f"'{layer.name}' costs most: it adds an error of {layer.own:.1%} of its activation at T={self.steps}, most "
            f"of it by {layer.largest_part}; {REMEDIES[layer.largest_part]}."
        )

    def _energy_in_words(self) -> str:
        wanted = self.steps_needed or self.steps
        at = next(step for step in self.energy if wanted <= step.T)
        times = (
            f"{self.ann_mj / at.mj:.2g} times as much" if at.mj < self.ann_mj else f"{self.ann_mj / at.mj:.0%} of it"
        )
        return (
            f"At T={at.T} an image takes {1e3 * at.mj:.3g} uJ and {at.spikes_per_neuron:.3g} spikes per neuron; "
            f"the ANN, dense, takes {times}."
        )


def conversion_report(
    ann: nn.Module,
    net: ProgramNet,
    images: Tensor,
    labels: Tensor,
    T: int | None = None,
    *,
    loss: float = 0.01,
    calibration: Tensor | None = None,
    table: str = "45nm_float32",
) -> ConversionReport:
    """Compare a converted network with its ANN on test images.

    Accuracy is that of all images; errors of layers and energies are those of the first 128 and 32.

    Args:
        ann: What was converted, in eval mode.
        net: What it was converted to.
        images: Test images ``[N, C, H, W]``, normalised as in training.
        labels: Their classes, int64 ``[N]``.
        T: The largest number of time steps; None: the network's own.
        loss: Share of accuracy that may be lost, in [0, 1).
        calibration: Training images, on which the margin of early exit is chosen; None: without early exit.
        table: Of ``ENERGY_TABLES``: what operations cost.

    Raises:
        ConfigError: the network was not made of this ANN, ``loss`` is out of its range, or there are no images.
        UnknownName: no such table.
    """
    if not len(images) or len(images) != len(labels):
        raise ConfigError(f"a report takes images and a label for each of them, got {len(images)} and {len(labels)}")
    own = ann if isinstance(ann, ProgramNet) else capture(ann, images)
    T = T or net.T
    accuracy = tuple(accuracy_by_step(net, [(images, labels)], T).tolist())
    ann_accuracy = float((decisions_of(own, images) == labels).double().mean())
    early = None if calibration is None else early_exit(net, calibration, images, labels, T)
    return build_report(own, net, images, ann_accuracy=ann_accuracy, accuracy=accuracy, count=len(labels), loss=loss,
                        early=early, table=table)  # fmt: skip


def build_report(
    ann: ProgramNet,
    net: ProgramNet,
    images: Tensor,
    *,
    ann_accuracy: float,
    accuracy: Sequence[float],
    count: int,
    loss: float,
    early: EarlyExitResult | None,
    table: str,
) -> ConversionReport:
    """Build the report where accuracies, of ``count`` images, are known; see ``conversion_report``."""
    if not 0 <= loss < 1:
        raise ConfigError(f"loss is a share of accuracy in [0, 1), as 0.01 for one point, got {loss}")
    T = len(accuracy)
    layers = layer_errors(ann, net, images[:LAYER_IMAGES], T)
    ann_mj, energy = energy_by_step(net, images[:ENERGY_IMAGES], T, table)
    return ConversionReport(loss, count, ann_accuracy, tuple(accuracy), layers, ann_mj, energy, early)


def energy_by_step(net: ProgramNet, images: Tensor, T: int, table: str) -> tuple[float, tuple[StepEnergy, ...]]:
    """Measure millijoules of the ANN, and of the network at 1, 2, 4, ... and T steps, per image."""
    steps = [t for t in (2**n for n in range(T.bit_length())) if t < T] + [T]
    found = [measure_energy(net, images, T=t, table=table) for t in steps]
    own = (StepEnergy(t, e.mj["stem_once"], e.spikes_per_neuron) for t, e in zip(steps, found, strict=True))
    return found[0].mj["ann"], tuple(own)


def early_exit(net: ProgramNet, calibration: Tensor, images: Tensor, labels: Tensor, T: int) -> EarlyExitResult:
    """Measure what early exit makes of the test images, its margin chosen on training images."""
    leaves = EarlyExit.calibrated(net.compile_for_inference(), calibration.split(BATCH), AGREEMENT, T=T)
    decided = [leaves(part, T=T) for part in images.split(BATCH)]
    hits = (torch.cat([d.logits for d in decided]).argmax(1) == labels).double().mean()
    taken = torch.cat([d.steps for d in decided]).double().mean()
    return EarlyExitResult(AGREEMENT, len(labels), float(hits), float(taken))


@torch.no_grad()
def layer_errors(ann: ProgramNet, net: ProgramNet, images: Tensor, T: int) -> tuple[LayerError, ...]:
    """Measure the error of every layer after T steps, its parts apart.

    Every layer is compared with its rectifier on the same images; ``LayerError`` says how the parts are told apart.
    What a neuron makes of an even current is found by giving it that current, so this holds for every neuron.

    Args:
        ann: What was converted, as ``capture`` gives it.
        net: What it was converted to.
        images: ``[N, C, H, W]``, normalised as in training.
        T: Time steps.

    Raises:
        ConfigError: the network was not made of this ANN.
    """
    neurons = {name: net.get_submodule(name) for name in net.units}
    rectifiers = [op for op in ann.program.operations if rectifier_of(op) is not None]
    if not neurons or len(neurons) != len(rectifiers):
        raise ConfigError(
            f"this network has {len(neurons)} layers of neurons in place of rectifiers, and the ANN has "
            f"{len(rectifiers)} rectifiers: give the ANN that it was converted from"
        )
    sums = {name: _Sums() for name in neurons}
    for part in images.split(BATCH):
        seen = _run(net, neurons, part, T)
        maps = _wanted(ann, part, {value for op in rectifiers for value in (op.out, op.x)})
        for (name, neuron), op in zip(neurons.items(), rectifiers, strict=True):
            assert isinstance(neuron, Neuron)
            current, output = seen[name]
            unit = current.new_tensor(net.units[name]).view(-1, *[1] * (current.dim() - 2))
            sums[name].add(neuron, unit, maps[op.x], maps[op.out], current, output, T)
    return tuple(found.result(name) for name, found in sums.items())


def _wanted(ann: ProgramNet, images: Tensor, values: set[Any]) -> dict[Any, Tensor]:
    kept = {value: x for value, x in run_through(ann.program, images) if value in values}
    return {ann.program.input: images} | kept


def _run(net: ProgramNet, neurons: Mapping[str, nn.Module], images: Tensor, T: int) -> dict[str, tuple[Tensor, Tensor]]:
    """Mean current and mean output ``[B, ...]`` of every population over T steps; of changes, what they tell."""
    seen: dict[str, tuple[Tensor, Tensor]] = {}
    steps = dict.fromkeys(neurons, 0)

    def look(name: str, neuron: Any, inputs: tuple[Tensor, ...], outputs: tuple[Tensor, Tensor]) -> None:
        steps[name] += 1
        weight = 1 / steps[name] if neuron.tells_changes else 1 / T
        now = inputs[0][0] * weight, outputs[0][0] * weight
        seen[name] = (seen[name][0] + now[0], seen[name][1] + now[1]) if name in seen else now

    hooks = [
        neuron.register_forward_hook(lambda module, inputs, out, name=name: look(name, module, inputs, out))
        for name, neuron in neurons.items()
    ]
    training = net.training
    try:
        net.eval()(images, T=T)
    finally:
        net.train(training)
        for hook in hooks:
            hook.remove()
    return seen


def evenly(neuron: Neuron, current: Tensor, T: int) -> Tensor:
    """Run a neuron on a current ``[B, ...]`` that is the same at all T steps, to its mean output ``[B, ...]``."""
    if not neuron.tells_changes:
        total = torch.zeros_like(current)
        v = None
        for _ in range(T):
            s, v = neuron(current.unsqueeze(0)) if v is None else neuron(current.unsqueeze(0), v)
            total += s[0]
        return total / T
    nothing, told, v = torch.zeros_like(current), torch.zeros_like(current), None
    for t in range(1, T + 1):
        x = (current if t == 1 else nothing).unsqueeze(0)
        s, v = neuron(x) if v is None else neuron(x, v)
        told += s[0] / t
    return told


class _Sums:
    """Sums of one layer over all batches, in float64."""

    def __init__(self) -> None:
        self.count = 0
        self.squares = dict.fromkeys(("activation", "error", "own", *PARTS), 0.0)
        self.moments = torch.zeros(5, dtype=torch.float64)  # of activation a and output s: a, s, aa, ss, as

    def add(
        self, neuron: Neuron, unit: Tensor, z: Tensor, activation: Tensor, current: Tensor, output: Tensor, T: int
    ) -> None:
        """One batch: current ``z`` and activation of the ANN, mean current and output of the neuron in thresholds."""
        of_ann, of_own = (evenly(neuron, even, T) * unit for even in (z / unit, current))
        most = sum(1 / t for t in range(1, T + 1)) if neuron.tells_changes else 1  # of what it puts out at a step
        bound = unit * (neuron.levels or 1) * most
        output, clipped = output * unit, torch.minimum(activation, bound)
        parts = {
            "clipping": clipped - activation,
            "quantisation": of_ann - clipped,
            "unevenness": output - of_own,
            "inherited": of_own - of_ann,
        }
        own = parts["clipping"] + parts["quantisation"] + parts["unevenness"]
        for name, x in {"activation": activation, "error": output - activation, "own": own, **parts}.items():
            self.squares[name] += float(x.double().square().sum())
        a, s = activation.double().flatten(), output.double().flatten()
        self.moments += torch.stack([a.sum(), s.sum(), a @ a, s @ s, a @ s]).cpu()
        self.count += a.numel()

    def result(self, name: str) -> LayerError:
        """All sums as root mean squares; of a layer that is silent on these images errors are 0."""
        size = (self.squares["activation"] / self.count) ** 0.5
        shares = {
            part: (square / self.count) ** 0.5 / size if size else 0.0
            for part, square in self.squares.items()
            if part != "activation"
        }
        return LayerError(name, size, **shares, correlation=self._correlation())

    def _correlation(self) -> float | None:
        a, s, aa, ss, both = (self.moments / self.count).tolist()
        variances = (aa - a * a) * (ss - s * s)
        return (both - a * s) / variances**0.5 if variances > 1e-24 else None

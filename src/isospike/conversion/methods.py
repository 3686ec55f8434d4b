"""Ways to convert an ANN: rows of one registry."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from isospike.conversion.activations import Batches, Levels, check_levels, names_of, quantiles, rectifier_of
from isospike.conversion.differential import told_as_changes
from isospike.conversion.evaluation import decisions_by_step, decisions_of, logit_sums
from isospike.conversion.lowering import Plan, lower
from isospike.conversion.thresholds import gaussian_thresholds, mmse_thresholds, quantile_thresholds
from isospike.conversion.walk import balanced_thresholds, calibrated_shifts, local_thresholds
from isospike.errors import ConfigError
from isospike.layers import DelayedReadout, Differential, SignedIF, SpikingReadout
from isospike.models import ProgramNet
from isospike.neurons import IF, ILIF, QCFS
from isospike.registry import Registry, check_options

Compensation = Literal["start", "factor", "none"]
Choice = Literal["mmse", "gaussian"]
JUDGES = 128  # calibration images on which a delay is chosen


@dataclass(frozen=True)
class Method:
    """A way to convert.

    Args:
        name: Its name in ``METHODS``.
        source: Where it comes from.
        function: ``function(ann, batches, T=..., **options)``, with a default for every option.
    """

    name: str
    source: str
    function: Callable[..., ProgramNet]

    def convert(self, ann: ProgramNet, batches: Batches, **options: Any) -> ProgramNet:
        """Convert an ANN into a spiking network.

        Args:
            ann: A program of one time step whose neurons are ``ReLU`` or ``QCFS``, in eval mode. It stays as it is.
            batches: Calibration images ``[N, C, H, W]``, normalised as in training, in batches: never test images.
            options: Of the method, with ``T``, the time steps that it is made for.

        Raises:
            ConfigError: an option, the images or the ANN cannot be used; says what would be right.
        """
        check_options(f"method '{self.name}'", self.function, options)
        if ann.training:
            raise ConfigError("an ANN is converted as it is tested: call ann.eval() first")
        return self.function(ann, batches, **options)


METHODS: Registry[Method] = Registry("method")


def list_methods() -> list[str]:
    """Return names of the ways to convert."""
    return list(METHODS)


def from_rest() -> IF:
    """Make neurons that integrate and fire: threshold 1, reset by subtraction, from potential 0."""
    return IF(v_threshold=1.0, reset="subtract")


def from_half(levels: int = 1) -> ILIF:
    """Make the same from potential 1/2: they round where the others take whole thresholds off.

    A potential that starts at half of the threshold and one that starts at 0 and fires half a threshold earlier put
    out the same spikes.
    """
    return ILIF(decay=1.0, levels=levels, v_threshold=1.0)


def s_resnet(
    ann: ProgramNet,
    batches: Batches,
    *,
    T: int = 350,
    quantile: float = 0.999,
    shortcuts: bool = True,
    compensation: Compensation = "start",
    largest_factor: float = 1.2,
) -> ProgramNet:
    """Put every layer in units of a quantile of its activations, sums in that of the layer behind (S-ResNet).

    Neurons stand behind average pools and logits too; a max-pool lets the rate of its most active input through. The
    logits of a step are spikes of the output neurons, with what their potentials say where counts are equal.

    Args:
        ann: See ``Method``.
        batches: See ``Method``.
        T: Time steps.
        quantile: 0.999 for CIFAR, 0.9999 for ImageNet in the source; 1 is the largest value.
        shortcuts: Whether shortcuts without weights are brought to the unit of their sum. False is the ablation.
        compensation: Of the error that discrete spikes make: "start", potentials start at half a threshold; "factor",
            they start at 0, and one factor enlarges all weights, the one from 1 to ``largest_factor`` in 20 steps with
            which most answers on the calibration images are those of the ANN; "none", neither.
        largest_factor: The source stops at 1 over the largest rate of the last layer, which a quantile makes 1.
    """
    if compensation not in get_args(Compensation):
        raise ConfigError(f"compensation is one of {', '.join(get_args(Compensation))}, got '{compensation}'")
    seen = quantiles(ann, batches, quantile)
    check_levels(seen.quantile, names_of(ann))
    if not seen.logits > 0:
        raise ConfigError("no logit is above 0 on the calibration images, so output neurons would never fire")
    half = compensation == "start"
    plan = Plan(
        seen.quantile,
        from_half if half else from_rest,
        logits=seen.logits,
        readout=partial(SpikingReadout, 0.5 if half else 0.0),
        pooled=True,
        scales_shortcuts=shortcuts,
    )
    if compensation == "factor":
        plan = replace(plan, gain=best_gain(ann, plan, torch.cat(list(batches)), T, largest_factor))
    return lower(ann, plan, T)


def best_gain(ann: ProgramNet, plan: Plan, images: Tensor, T: int, largest: float, steps: int = 20) -> float:
    """Find the factor from 1 to ``largest`` with which most decisions are the ANN's; of equal ones the smallest."""
    if not 1 < largest <= 2:
        raise ConfigError(f"largest_factor is the largest factor on the weights, above 1 and at most 2, got {largest}")
    truth = decisions_of(ann, images)
    gains = torch.linspace(1, largest, steps + 1).tolist()
    agreement = [
        float((decisions_by_step(lower(ann, replace(plan, gain=gain), T), images, T)[-1] == truth).double().mean())
        for gain in gains
    ]
    return gains[agreement.index(max(agreement))]


def _rates(ann: ProgramNet, batches: Batches, thresholds: Levels, T: int, levels: int, calibrate: bool) -> ProgramNet:
    """Convert to neurons that start at half a threshold, with real logits, and biases calibrated or as they were."""
    neuron = partial(from_half, levels)
    thresholds = {value: threshold / levels for value, threshold in thresholds.items()}
    shifts = calibrated_shifts(ann, batches, T, neuron, thresholds) if calibrate else {}
    return lower(ann, Plan(thresholds, neuron, shifts), T)


def _checked(levels: int) -> int:
    if levels < 1:
        raise ConfigError(f"levels, what a neuron puts out at most at one step, must be at least 1, got {levels}")
    return levels


def percentile(
    ann: ProgramNet,
    batches: Batches,
    *,
    T: int = 64,
    quantile: float = 0.999,
    per_channel: bool = False,
    levels: int = 1,
    calibrate: bool = False,
) -> ProgramNet:
    """Choose thresholds at a quantile of the activations.

    Args:
        ann: See ``Method``.
        batches: See ``Method``.
        T: Time steps.
        quantile: In (0, 1]; 1 is the largest activation.
        per_channel: A threshold for each channel.
        levels: What a neuron puts out at most at one step: 1 for spikes, more for counts of them.
        calibrate: Whether biases are corrected, layer by layer, until mean rates are mean activations.
    """
    thresholds = quantile_thresholds(ann, batches, quantile, per_channel=per_channel)
    return _rates(ann, batches, thresholds, T, _checked(levels), calibrate)


def largest(
    ann: ProgramNet,
    batches: Batches,
    *,
    T: int = 64,
    per_channel: bool = False,
    levels: int = 1,
    calibrate: bool = False,
) -> ProgramNet:
    """Choose thresholds at the largest activation; arguments as ``percentile``."""
    return percentile(ann, batches, T=T, quantile=1.0, per_channel=per_channel, levels=levels, calibrate=calibrate)


def mmse(
    ann: ProgramNet,
    batches: Batches,
    *,
    T: int = 64,
    per_channel: bool = False,
    levels: int = 1,
    calibrate: bool = False,
) -> ProgramNet:
    """Choose thresholds with the least squared error of activations that T steps clip and round."""
    thresholds = mmse_thresholds(ann, batches, T * _checked(levels), per_channel=per_channel)
    return _rates(ann, batches, thresholds, T, levels, calibrate)


def calibrated(
    ann: ProgramNet, batches: Batches, *, T: int = 32, per_channel: bool = False, levels: int = 1
) -> ProgramNet:
    """Choose thresholds as ``mmse``, and calibrate biases; arguments as ``percentile``."""
    return mmse(ann, batches, T=T, per_channel=per_channel, levels=levels, calibrate=True)


def balancing(
    ann: ProgramNet, batches: Batches, *, T: int = 256, levels: int = 1, calibrate: bool = False
) -> ProgramNet:
    """Choose thresholds at the largest current of a step behind layers that spike; arguments as ``percentile``."""
    neuron = partial(from_half, _checked(levels))
    thresholds = balanced_thresholds(ann, batches, T, neuron, levels)
    return _rates(ann, batches, {value: levels * t for value, t in thresholds.items()}, T, levels, calibrate)


def qcfs(ann: ProgramNet, batches: Batches, *, T: int = 8, calibrate: bool = False) -> ProgramNet:
    """Take thresholds that were learnt with the ANN, whose neurons are ``QCFS``; arguments as ``percentile``."""
    thresholds = {}
    for op in ann.program.operations:
        rectifier = rectifier_of(op)
        if rectifier is not None and not isinstance(rectifier, QCFS):
            name = names_of(ann)[op.out]
            raise ConfigError(
                f"method 'qcfs' takes thresholds that were learnt, and {name} is a plain rectifier: train the ANN with "
                "neuron={'kind': 'qcfs'}, or take another method"
            )
        if rectifier is not None:
            thresholds[op.out] = rectifier.threshold.detach().double().view(1)
    check_levels(thresholds, names_of(ann))
    return _rates(ann, batches, thresholds, T, 1, calibrate)


def ltb(
    ann: ProgramNet, batches: Batches, *, T: int = 32, delay: int | None = None, steps: int = 500, levels: int = 1
) -> ProgramNet:
    """Choose thresholds of channels by their clipping error (local threshold balancing), and wait with the readout.

    Args:
        ann: See ``Method``.
        batches: See ``Method``.
        T: Time steps.
        delay: Of the T steps, how many the mean of the logits leaves out, below T; None: as many as make most answers
            on the calibration images those of the ANN at T, of equal ones the fewest.
        steps: Of the search for thresholds.
        levels: See ``percentile``.
    """
    if delay is not None and not 0 <= delay < T:
        raise ConfigError(f"delay leaves out some of the T={T} steps and not all of them: take 0 to {T - 1}")
    found = local_thresholds(ann, batches, steps)
    units = {value: threshold / _checked(levels) for value, threshold in found.items()}
    plan = Plan(units, partial(from_half, levels))
    if delay is None:
        delay = best_delay(ann, lower(ann, plan, T), torch.cat(list(batches))[:JUDGES], T)
    return lower(ann, replace(plan, readout=partial(DelayedReadout, delay)), T)


def best_delay(ann: ProgramNet, net: ProgramNet, images: Tensor, T: int) -> int:
    """Find the delay below T with which most decisions after T steps are the ANN's; of equal ones the smallest."""
    sums = logit_sums(net, images, T)
    late = sums[-1] - torch.cat([torch.zeros_like(sums[:1]), sums[:-1]])
    return int((late.argmax(-1) == decisions_of(ann, images)).sum(1).argmax())


def multi_threshold(
    ann: ProgramNet,
    batches: Batches,
    *,
    T: int = 4,
    thresholds: int = 4,
    takes_back: bool = True,
    choice: Choice = "mmse",
    per_channel: bool = False,
) -> ProgramNet:
    """Take neurons of several thresholds that halve, which put out 0 to ``2**thresholds - 1`` at a step.

    Args:
        ann: See ``Method``.
        batches: See ``Method``.
        T: Time steps.
        thresholds: Binary digits of what a neuron puts out at a step, 1 to 12.
        takes_back: Whether neurons may put out as many below 0, to take back what they sent too much.
        choice: Of thresholds: "mmse" for activations as they are, "gaussian" for currents of a normal distribution.
        per_channel: A threshold for each channel.
    """
    levels = _levels_of(thresholds)
    if choice not in get_args(Choice):
        raise ConfigError(f"choice is one of {', '.join(get_args(Choice))}, got '{choice}'")
    choose = mmse_thresholds if choice == "mmse" else gaussian_thresholds
    chosen = choose(ann, batches, T * levels, per_channel=per_channel)
    neuron = partial(SignedIF if takes_back else from_half, levels)
    return lower(ann, Plan({value: threshold / levels for value, threshold in chosen.items()}, neuron), T)


def differential(
    ann: ProgramNet, batches: Batches, *, T: int = 4, thresholds: int = 4, per_channel: bool = False
) -> ProgramNet:
    """Let neurons send changes: what is put out at step t moves an activation by 1/t of its size.

    Args:
        ann: See ``Method``; without max-pools.
        batches: See ``Method``.
        T: Time steps.
        thresholds: Binary digits of what a neuron puts out at a step, besides its sign, 1 to 12.
        per_channel: A threshold for each channel.
    """
    levels = _levels_of(thresholds)
    chosen = mmse_thresholds(ann, batches, T * levels, per_channel=per_channel)
    units = {value: threshold / levels for value, threshold in chosen.items()}
    return told_as_changes(lower(ann, Plan(units, partial(Differential, levels)), T))


def _levels_of(thresholds: int) -> int:
    if not 1 <= thresholds <= 12:
        raise ConfigError(f"thresholds, the binary digits of what a neuron puts out, are 1 to 12, got {thresholds}")
    return 2**thresholds - 1


for _name, _source, _function in (
    ("s_resnet", "Hu et al. 2021 (S-ResNet), arXiv:1805.01352, and its released code", s_resnet),
    ("max", "Diehl et al. 2015, doi:10.1109/IJCNN.2015.7280696", largest),
    ("percentile", "Rueckauer et al. 2017, doi:10.3389/fnins.2017.00682", percentile),
    ("mmse", "Li et al. 2021, arXiv:2106.06984", mmse),
    ("calibrated", "Li et al. 2021, arXiv:2106.06984, its light pipeline", calibrated),
    ("balancing", "Sengupta et al. 2019 (Spike-Norm), arXiv:1802.02627", balancing),
    ("ltb", "Bu et al. 2024, arXiv:2409.03368", ltb),
    ("multi_threshold", "Zhang et al. 2026 (H-MT); Wang et al. 2022 (SNM), for taking back", multi_threshold),
    ("differential", "after Huang et al. 2025, arXiv:2503.00301; derived anew", differential),
    ("qcfs", "Bu et al. 2022 (QCFS), arXiv:2303.04347", qcfs),
):
    METHODS.register(_name, Method(_name, _source, _function))

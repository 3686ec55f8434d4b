"""Neurons and readouts of codes other than plain rates: what networks converted for few steps are made of."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from isospike.errors import ConfigError
from isospike.neurons import Coefficient, Neuron, SpikingNeuron
from isospike.ops import SignedRule


class SignedIF(SpikingNeuron):
    """Integrate and fire that takes back what it sent too much: after every step its sum is the rectified charge.

    Threshold 1, reset by subtraction, the first spike at half of the threshold; see ``SignedRule``. The pair of a
    positive and a negative neuron of which each gets what the other sent is this neuron: their potentials add up to
    one threshold after every step, so one of them says all.

    Args:
        levels: The largest number that it puts out at one step, and minus the smallest; ``2**n - 1`` for n thresholds
            that halve, as the greedy binary digits of the potential.

    Source: Zhang et al. 2026 (H-MT), for the communication of the two parts; Wang et al. 2022, for taking back.
    """

    signed = True

    def __init__(self, levels: int = 1) -> None:
        super().__init__(SignedRule(levels))

    def coefficients(self) -> tuple[Coefficient, Coefficient]:
        """(1, 1)."""
        return 1.0, 1.0


class Differential(Neuron):
    """A rectifier that sends changes: at step t it puts out ``round(t * (target - sent))``, in {-levels, ..., levels}.

    Whoever reads ``x[t]`` moves what he believes of it by ``x[t] / t``. The target is the rectified sum of what this
    neuron was told so, and ``sent`` is what its own readers believe. So silence means that nothing has changed, and
    a spike at step t moves an activation by 1/t: after t steps the error is at most ``1/(2t)`` of a threshold, as soon
    as no change was larger than ``levels / t``.

    Its state is what it was told, what it sent, and the number of steps: ``[3, B, ...]``. Gradients go straight
    through the rounding within the bounds.

    Args:
        levels: The largest number that it puts out at one step, and minus the smallest.

    Source: after the idea of Huang et al. 2025, arXiv:2503.00301, derived anew; it is not their neuron.
    """

    signed, v_threshold, tells_changes = True, 1.0, True

    def __init__(self, levels: int = 1) -> None:
        super().__init__()
        if levels < 1:
            raise ConfigError(f"levels must be at least 1, got {levels}")
        self.levels: int = levels

    def forward(self, x: Tensor, v: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Changes ``[T, B, ...]`` of a current that is told as changes, and the state after the last step."""
        told, sent, count = x.new_zeros(3, *x.shape[1:]) if v is None else v
        outputs = []
        for x_t in x:
            count = count + 1
            told = told + x_t / count
            change = (count * (told.relu() - sent)).clamp(-self.levels, self.levels)
            change = change + (change.round() - change).detach()
            sent = sent + change.detach() / count
            outputs.append(change)
        return torch.stack(outputs), torch.stack([told, sent, count])

    def state_shape(self, step: Sequence[int]) -> tuple[int, ...]:
        """Return ``[3, B, ...]``."""
        return 3, *step

    def current_to_fire(self) -> Coefficient:
        """1, told anew at every step, would be told as growing without end; it fires once for a current of 1."""
        return 1.0

    def extra_repr(self) -> str:
        """Return how much it says at once, for ``print(model)``."""
        return f"levels={self.levels}"


class Changes(Neuron):
    """A map told as changes: at step t what moves the mean of the earlier steps, by ``1/t``, to that with this step.

    Of a map that stays the same it is the map at the first step, and 0 after it. Its state is the mean so far and the
    number of steps, ``[2, B, ...]``.
    """

    levels, v_threshold = None, 1.0

    def forward(self, x: Tensor, v: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """``[T, B, ...]`` to the same shape, and the state after the last step."""
        mean, count = x.new_zeros(2, *x.shape[1:]) if v is None else v
        outputs = []
        for x_t in x:
            count, change = count + 1, x_t - mean
            mean = mean + change / count
            outputs.append(change)
        return torch.stack(outputs), torch.stack([mean, count])

    def state_shape(self, step: Sequence[int]) -> tuple[int, ...]:
        """Return ``[2, B, ...]``."""
        return 2, *step

    def current_to_fire(self) -> Coefficient:
        """1."""
        return 1.0


class BiasOnce(Neuron):
    """A bias per channel that a map of changes gets at the first step alone.

    Its state is 0 before the first step, and 1 after it, ``[B, 1]``.
    """

    levels, v_threshold = None, 1.0

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor, v: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """``[T, B, C, ...]`` to the same shape, and ``[B, 1]``."""
        bias = self.bias.view(-1, *[1] * (x.dim() - 3))
        if v is not None:
            bias = bias * (1 - v.view(-1, *[1] * (x.dim() - 2)))
        return torch.cat([x[:1] + bias, x[1:]]), x.new_ones(x.shape[1], 1)

    def state_shape(self, step: Sequence[int]) -> tuple[int, ...]:
        """Return ``[B, 1]``."""
        return step[0], 1

    def current_to_fire(self) -> Coefficient:
        """1."""
        return 1.0


class DifferentialReadout(Neuron):
    """Logits that are told as changes, put out so that their mean over the first t steps is what is known by then."""

    levels, v_threshold = None, 1.0

    def forward(self, x: Tensor, v: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """``[T, B, K]`` to the same shape; the state is what is known and the number of steps, ``[2, B, K]``."""
        known, count = x.new_zeros(2, *x.shape[1:]) if v is None else v
        outputs = []
        for x_t in x:
            count = count + 1
            outputs.append(known + x_t)
            known = known + x_t / count
        return torch.stack(outputs), torch.stack([known, count])

    def state_shape(self, step: Sequence[int]) -> tuple[int, ...]:
        """Return ``[2, B, K]``."""
        return 2, *step

    def current_to_fire(self) -> Coefficient:
        """1."""
        return 1.0


class DelayedReadout(Neuron):
    """Logits whose mean over T steps is that of the steps behind a delay, when spikes have come through all layers.

    Up to the delay the mean is that of all steps so far. Its state is the sum behind the delay, the mean so far and the
    number of steps, ``[3, B, K]``.

    Args:
        delay: Steps that are left out once there are others, 0 or more.

    Source: Bu et al. 2024, arXiv:2409.03368.
    """

    levels, v_threshold = None, 1.0

    def __init__(self, delay: int) -> None:
        super().__init__()
        if delay < 0:
            raise ConfigError(f"the delay of a readout is a number of steps, 0 or more, got {delay}")
        self.delay = delay

    def forward(self, x: Tensor, v: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """``[T, B, K]`` to the same shape, and the state after the last step."""
        total, mean, count = x.new_zeros(3, *x.shape[1:]) if v is None else v
        outputs = []
        for x_t in x:
            count = count + 1
            late = count - self.delay
            total = torch.where(late == 1, x_t, total + x_t)
            before, mean = mean, total / torch.where(late > 0, late, count)
            outputs.append(count * mean - (count - 1) * before)
        return torch.stack(outputs), torch.stack([total, mean, count])

    def state_shape(self, step: Sequence[int]) -> tuple[int, ...]:
        """Return ``[3, B, K]``."""
        return 3, *step

    def current_to_fire(self) -> Coefficient:
        """1."""
        return 1.0

    def extra_repr(self) -> str:
        """Return how long it waits, for ``print(model)``."""
        return f"delay={self.delay}"

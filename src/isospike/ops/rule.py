"""When a neuron fires, and what its potential is then."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from isospike.errors import ConfigError
from isospike.surrogates import Arctan, Rectangle, Surrogate, fire, fire_integer, slope_integer

Reset = Literal["to_value", "subtract"]


@dataclass(frozen=True)
class FireRule:
    """A step at one threshold or at several, and a reset.

    Args:
        v_threshold: Potential at which it fires, greater than 0.
        reset: "to_value" puts the potential to ``v_reset``; "subtract" takes the threshold from it.
        v_reset: Potential after a reset to a value, below ``v_threshold``. Potentials leak to 0 all the same.
        surrogate: Stands in for the derivative of the step.
        detach_reset: Let no gradient through the spike into the reset.
        strict: Fire where ``h > v_threshold``; otherwise where ``h >= v_threshold``.
        higher: Thresholds of further levels, rising. Every level has a potential of its own, which only its own
            spike resets; the neuron puts out how many levels fired.

    Raises:
        ConfigError: a value out of its range, or a ``v_reset`` that a reset by subtraction would ignore.
    """

    v_threshold: float = 1.0
    reset: Reset = "to_value"
    v_reset: float = 0.0
    surrogate: Surrogate = Arctan()
    detach_reset: bool = False
    strict: bool = False
    higher: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        _check_threshold(self.v_threshold)
        _check_flags(detach_reset=self.detach_reset, strict=self.strict)
        if self.reset not in get_args(Reset):
            raise ConfigError(f"reset must be 'to_value' or 'subtract', got '{self.reset}'")
        if self.reset == "subtract" and self.v_reset != 0:
            raise ConfigError(f"a reset by subtraction has no v_reset, got v_reset={self.v_reset}")
        if not self.v_reset < self.v_threshold:
            raise ConfigError(f"v_reset must be below v_threshold={self.v_threshold}, got {self.v_reset}")
        object.__setattr__(self, "higher", tuple(self.higher))
        thresholds = (self.v_threshold, *self.higher)
        if not all(a < b < math.inf for a, b in zip(thresholds, self.higher, strict=False)):
            raise ConfigError(f"thresholds of further levels must rise from v_threshold on, got {list(thresholds)}")

    @property
    def levels(self) -> int:
        """The largest number that the neuron puts out at one step."""
        return 1 + len(self.higher)

    @property
    def masks_suffice(self) -> bool:
        """Whether the backward pass needs two bits of every potential: is its surrogate not 0, and did it fire?

        So it is where the surrogate has one height and no gradient goes through the spike into the reset.
        """
        return type(self.surrogate) is Rectangle and self.detach_reset

    def state_shape(self, step: Sequence[int]) -> tuple[int, ...]:
        """Shape of the potentials of neurons whose current at one step has the shape ``step``."""
        return (self.levels, *step) if self.higher else tuple(step)

    def current_to_fire(self, decay: float | Tensor) -> float | Tensor:
        """A constant charge at which it fires, from rest or after a spike, at every step.

        A strict neuron needs more than its threshold: it is given one eighth more, which every float dtype holds.
        """
        return self.v_threshold * (1.125 if self.strict else 1.0) - decay * min(self.v_reset, 0.0)

    def fire(self, h: Tensor) -> Tensor:
        """Spikes in {0, 1} of every level, for potentials ``[B, ...]``, or ``[levels, B, ...]``."""
        return fire(h - self._thresholds(h), self.surrogate, strict=self.strict)

    def slope(self, h: Tensor) -> Tensor:
        """ds/dh of every spike of ``fire(h)`` as the backward pass takes it; 0 where no gradient comes through."""
        return self.surrogate.derivative(h - self._thresholds(h))

    def reset_after(self, h: Tensor, s: Tensor) -> Tensor:
        """Potentials after the spikes ``s`` of ``fire(h)``, and of their shape."""
        if self.reset == "subtract":
            return h - s * self._thresholds(h)
        v = torch.where(h == math.inf, 0.0, h) * (1 - s)  # what has fired leaves nothing, infinity neither
        return v + s * self.v_reset if self.v_reset else v

    def count(self, s: Tensor) -> Tensor:
        """Sum the spikes of ``fire`` over the levels, to what the neurons put out ``[B, ...]``."""
        return s.sum(0) if self.higher else s

    def _thresholds(self, h: Tensor) -> float | Tensor:
        if not self.higher:
            return self.v_threshold
        return h.new_tensor((self.v_threshold, *self.higher)).view(-1, *[1] * (h.dim() - 1))


@dataclass(frozen=True)
class IntegerRule:
    """Integer firing: ``s = round(clamp(h / v_threshold, 0, levels))``; the reset takes ``s * v_threshold``.

    The gradient goes straight through the rounding where ``0 <= h <= levels * v_threshold``, and is 0 elsewhere.

    Args:
        levels: The largest number that the neuron puts out at one step, at least 1.
        v_threshold: Potential per spike, greater than 0; the first spike comes at half of it.
        detach_reset: Let no gradient through the spike into the reset.

    Raises:
        ConfigError: a value out of its range.

    Source: Luo et al. 2024 (SpikeYOLO, I-LIF), arXiv:2407.20708.
    """

    levels: int = 4
    v_threshold: float = 1.0
    detach_reset: bool = True
    masks_suffice: ClassVar[bool] = False  # what an integer spike takes from the potential is more than a bit

    def __post_init__(self) -> None:
        _check_threshold(self.v_threshold)
        _check_flags(detach_reset=self.detach_reset)
        if type(self.levels) is not int:
            raise ConfigError(f"levels must be a whole number, got {self.levels!r}")
        if self.levels < 1:
            raise ConfigError(f"levels must be at least 1, got {self.levels}")

    def state_shape(self, step: Sequence[int]) -> tuple[int, ...]:
        """Shape of the potentials: that of the current at one step."""
        return tuple(step)

    def current_to_fire(self, decay: float | Tensor) -> float | Tensor:
        """A constant charge that gives 1 at every step: it leaves nothing behind, so no decay matters."""
        return self.v_threshold

    def fire(self, h: Tensor) -> Tensor:
        """Integers in {0, ..., levels} for potentials ``[B, ...]``."""
        return fire_integer(h / self.v_threshold, self.levels)

    def slope(self, h: Tensor) -> Tensor:
        """ds/dh of ``fire(h)`` as the backward pass takes it; 0 where no gradient comes through."""
        return slope_integer(h / self.v_threshold, self.levels) / self.v_threshold

    def reset_after(self, h: Tensor, s: Tensor) -> Tensor:
        """Potentials after the spikes ``s``."""
        return h - s * self.v_threshold

    def count(self, s: Tensor) -> Tensor:
        """Return the spikes themselves."""
        return s


@dataclass(frozen=True)
class SignedRule:
    """Integer firing that takes back: ``s = round(h / v_threshold)``, from minus what was sent so far up to ``levels``.

    So after every step the sum of what it sent is the rectified sum of its charges, rounded, in whatever order they
    came, as long as it need not change by more than ``levels`` at one step; ``-levels`` bounds what it takes back. It
    has two potentials: what is left of its charges, and all of them, whose difference is what was sent. It is for
    neurons without leak. The gradient goes straight through the rounding within the bounds.

    Args:
        levels: The largest number that the neuron puts out at one step, at least 1, and minus the smallest.
        v_threshold: Potential per spike, greater than 0; the first spike comes at half of it.

    Raises:
        ConfigError: a value out of its range.

    Source: Wang et al. 2022 (signed neurons with memory), doi:10.24963/ijcai.2022/347, for several levels.
    """

    levels: int = 1
    v_threshold: float = 1.0
    detach_reset: ClassVar[bool] = True
    masks_suffice: ClassVar[bool] = False

    def __post_init__(self) -> None:
        _check_threshold(self.v_threshold)
        if self.levels < 1:
            raise ConfigError(f"levels must be at least 1, got {self.levels}")

    def state_shape(self, step: Sequence[int]) -> tuple[int, ...]:
        """Shape of the potentials of neurons whose current at one step has the shape ``step``."""
        return (2, *step)

    def current_to_fire(self, decay: float | Tensor) -> float | Tensor:
        """A constant charge that gives 1 at every step."""
        return self.v_threshold

    def fire(self, h: Tensor) -> Tensor:
        """Integers in {-levels, ..., levels} for potentials ``[2, B, ...]``."""
        u = h[0] / self.v_threshold
        within = torch.maximum(u, self._least(h)).clamp(max=self.levels)
        return within + (within.round() - within).detach()

    def slope(self, h: Tensor) -> Tensor:
        """ds/dh of ``fire(h)`` as the backward pass takes it, for the first potential: there is none for the second."""
        u = h[0] / self.v_threshold
        return ((u >= self._least(h)) & (u <= self.levels)).to(h.dtype) / self.v_threshold

    def reset_after(self, h: Tensor, s: Tensor) -> Tensor:
        """Potentials after the spikes ``s``."""
        return torch.stack([h[0] - s * self.v_threshold, h[1]])

    def count(self, s: Tensor) -> Tensor:
        """Return the spikes themselves."""
        return s

    def _least(self, h: Tensor) -> Tensor:
        """What it may put out at least: it takes back no more than it sent."""
        sent = ((h[1] - h[0]) / self.v_threshold).round().detach()
        return -sent.clamp(0, self.levels)


Rule = FireRule | IntegerRule | SignedRule


def _check_threshold(v_threshold: float) -> None:
    if not (math.isfinite(v_threshold) and v_threshold > 0):
        raise ConfigError(f"v_threshold must be a number greater than 0, got {v_threshold}")


def _check_flags(**flags: object) -> None:
    for name, value in flags.items():
        if not isinstance(value, bool):
            raise ConfigError(f"{name} must be true or false, got {value!r}")

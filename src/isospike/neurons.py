"""Neurons: rows of one recurrence, and the rectifiers that stand in their place in an ANN."""

import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import fields
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from isospike.errors import ConfigError
from isospike.ops import FireRule, IntegerRule, Rule, SignedRule, leaky_fire
from isospike.registry import Registry, build, unknown_name
from isospike.surrogates import SURROGATES, Surrogate

Coefficient = float | Tensor


class Neuron(nn.Module, ABC):
    """A population of neurons, one for every element of a step.

    ``s, v = neuron(x)`` runs all steps of ``x [T, B, ...]`` from rest; ``neuron(x, v)`` starts from the state ``v``
    that an earlier call gave back. Nothing is kept in the module: the state is what goes in and what comes out.
    """

    levels: int | None
    """The largest number put out at one step: 1 for spikes, more for counts, None for real numbers."""

    signed: bool = False
    """Whether it also puts out negative numbers, down to ``-levels``."""

    v_threshold: float
    """The potential, or the current of a neuron without one, that stands for one spike."""

    tells_changes: bool = False
    """Whether what it reads and puts out at step t moves an estimate by 1/t of it, instead of being averaged."""

    @abstractmethod
    def forward(self, x: Tensor, v: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return what the neuron puts out ``[T, B, ...]``, and its state after the last step."""

    def state_shape(self, step: Sequence[int]) -> tuple[int, ...]:
        """Return the shape of its state where its current at one step has the shape ``step``, ``[B, ...]``."""
        return tuple(step)

    @abstractmethod
    def current_to_fire(self) -> Coefficient:
        """Return a constant current at which the neuron, from rest, puts out 1 at every step."""


class SpikingNeuron(Neuron, ABC):
    """A row of the recurrence ``h[t] = decay * v[t-1] + gain * x[t]``.

    Args:
        rule: When it fires and what is left then.
    """

    def __init__(self, rule: Rule) -> None:
        super().__init__()
        self.rule = rule
        self.levels, self.v_threshold = rule.levels, rule.v_threshold

    @abstractmethod
    def coefficients(self) -> tuple[Coefficient, Coefficient]:
        """Return ``(decay, gain)``."""

    def forward(self, x: Tensor, v: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return spikes ``[T, B, ...]`` and the potential after the last step; see ``leaky_fire``."""
        decay, gain = self.coefficients()
        return leaky_fire(x, v, decay=decay, gain=gain, rule=self.rule)

    def state_shape(self, step: Sequence[int]) -> tuple[int, ...]:
        """Return that of the rule."""
        return self.rule.state_shape(step)

    def current_to_fire(self) -> Coefficient:
        """Return the current of the rule, divided by the gain."""
        decay, gain = self.coefficients()
        return self.rule.current_to_fire(decay) / gain

    def extra_repr(self) -> str:
        """Return the rule, for ``print(model)``."""
        return ", ".join(f"{f.name}={getattr(self.rule, f.name)}" for f in fields(self.rule))


def is_recurrence(neuron: nn.Module) -> TypeGuard[SpikingNeuron]:
    """Return whether its rule and its coefficients say all that it does: its class has no other ``forward``."""
    if not isinstance(neuron, SpikingNeuron) or type(neuron).forward is not SpikingNeuron.forward:
        return False
    return type(neuron.rule) in (FireRule, IntegerRule, SignedRule) and "forward" not in vars(neuron)


def _fire_rule(neuron: type, options: dict[str, Any]) -> FireRule:
    """Return the rule that these options of a neuron give; ``surrogate`` also by name or as ``{"kind": name, ...}``.

    Raises:
        UnknownName: an option that the neuron does not have.
    """
    own = [p.name for p in inspect.signature(neuron).parameters.values() if p.kind is p.KEYWORD_ONLY]
    names = [f.name for f in fields(FireRule)]
    for name in options:
        if name not in names:
            raise unknown_name(f"option of {neuron.__name__}", name, own + names)
    surrogate = options.get("surrogate", FireRule.surrogate)
    if not isinstance(surrogate, Surrogate):
        surrogate = build(SURROGATES, surrogate)
    return FireRule(**{**options, "surrogate": surrogate})


class IF(SpikingNeuron):
    """Integrate and fire, no leak: ``h[t] = v[t-1] + x[t]``.

    Args:
        rule: Fields of ``FireRule``.
    """

    def __init__(self, **rule: Any) -> None:
        super().__init__(_fire_rule(type(self), rule))

    def coefficients(self) -> tuple[Coefficient, Coefficient]:
        """Return (1, 1)."""
        return 1.0, 1.0


class LIF(SpikingNeuron):
    """Leaky integrate and fire, given by ``decay`` or by ``tau``.

    ``decay``: ``h[t] = decay * v[t-1] + x[t]``.
    ``tau``: ``h[t] = (1 - 1/tau) * v[t-1] + x[t] / tau``, or ``+ x[t]`` with ``decay_input=False``.

    Args:
        decay: Share of the potential kept per step, in [0, 1].
        tau: Time constant in steps, at least 1; instead of ``decay``.
        decay_input: Whether ``tau`` also divides the current; True where ``tau`` is given and this is not.
        rule: Fields of ``FireRule``.

    Raises:
        ConfigError: both or neither of ``decay`` and ``tau``, or one out of range.
    """

    def __init__(
        self,
        *,
        decay: float | None = None,
        tau: float | None = None,
        decay_input: bool | None = None,
        **rule: Any,
    ) -> None:
        super().__init__(_fire_rule(type(self), rule))
        if (decay is None) == (tau is None):
            raise ConfigError(f"a LIF neuron takes either decay or tau, got decay={decay} and tau={tau}")
        if decay is not None:
            if decay_input is not None:
                raise ConfigError("decay_input goes with tau; a LIF neuron given by decay takes its current whole")
            self.decay, self.gain = _checked_decay(decay), 1.0
        elif tau is not None:
            if not tau >= 1:
                raise ConfigError(f"tau is a time constant in steps, at least 1, got {tau}")
            self.decay = 1 - 1 / tau
            self.gain = 1.0 if decay_input is False else 1 / tau

    def coefficients(self) -> tuple[Coefficient, Coefficient]:
        """Return the numbers given at construction."""
        return self.decay, self.gain

    def extra_repr(self) -> str:
        """Return the leak and the rule, for ``print(model)``."""
        return f"decay={self.decay:g}, gain={self.gain:g}, {super().extra_repr()}"


class PLIF(SpikingNeuron):
    """LIF with one learnable time constant per layer: ``h[t] = (1 - k) v[t-1] + k x[t]``, ``k = sigmoid(w)``.

    Args:
        tau: Time constant at initialisation in steps, greater than 1: ``k = 1/tau``.
        rule: Fields of ``FireRule``.

    Source: Fang et al. 2021, arXiv:2007.05785, eq. 9-11.
    """

    def __init__(self, *, tau: float = 2.0, **rule: Any) -> None:
        super().__init__(_fire_rule(type(self), rule))
        if not tau > 1:
            raise ConfigError(f"tau of a PLIF neuron is a time constant in steps, greater than 1, got {tau}")
        self.w = nn.Parameter(torch.tensor(-math.log(tau - 1)))

    def coefficients(self) -> tuple[Coefficient, Coefficient]:
        """Return (1 - k, k), both with gradient."""
        k = self.w.sigmoid()
        return 1 - k, k


class MLF(SpikingNeuron):
    """Multi-level firing: LIF neurons at rising thresholds on one current; it puts out how many of them fired.

    Args:
        levels: Number of thresholds, at least 1; with 1 it is a LIF neuron.
        decay: Share of each potential kept per step, in [0, 1].
        v_threshold: The first threshold.
        v_step: From one threshold to the next, greater than 0. Where it is the width of a rectangular surrogate, the
            windows of the levels meet and no potential between them is without a gradient.
        rule: Other fields of ``FireRule``.

    Source: Feng et al. 2022, arXiv:2210.06386, and its released code.
    """

    def __init__(
        self, *, levels: int = 3, decay: float = 0.25, v_threshold: float = 0.6, v_step: float = 1.0, **rule: Any
    ) -> None:
        if levels < 1:
            raise ConfigError(f"levels must be at least 1, got {levels}")
        higher = tuple(v_threshold + level * v_step for level in range(1, levels))
        super().__init__(_fire_rule(type(self), {**rule, "v_threshold": v_threshold, "higher": higher}))
        self.decay = _checked_decay(decay)

    def coefficients(self) -> tuple[Coefficient, Coefficient]:
        """Return (decay, 1)."""
        return self.decay, 1.0


class ILIF(SpikingNeuron):
    """Integer LIF: it puts out the potential in thresholds, rounded, and keeps what rounding left.

    Every such integer is ``levels`` binary slots (see ``binary_slots``), so the trained network runs on spikes alone.

    Args:
        decay: Share of the potential kept per step, in [0, 1].
        rule: Fields of ``IntegerRule``: ``levels``, ``v_threshold``, ``detach_reset``.

    Source: Luo et al. 2024 (SpikeYOLO), arXiv:2407.20708, and its released code.
    """

    def __init__(self, *, decay: float = 0.25, **rule: Any) -> None:
        for name in rule:
            if name not in (names := [f.name for f in fields(IntegerRule)]):
                raise unknown_name("option of ILIF", name, ["decay", *names])
        super().__init__(IntegerRule(**rule))
        self.decay = _checked_decay(decay)

    def coefficients(self) -> tuple[Coefficient, Coefficient]:
        """Return (decay, 1)."""
        return self.decay, 1.0


class ReLU(Neuron):
    """The rectifier: what stands in place of every neuron in an ANN twin. It has no memory; its state is empty."""

    levels, v_threshold = None, 1.0

    def forward(self, x: Tensor, v: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return ``max(x, 0)`` at every step, and an empty state."""
        return x.relu(), x.new_empty(0)

    def current_to_fire(self) -> Coefficient:
        """Return 1."""
        return 1.0


class QCFS(Neuron):
    """The rectifier of an ANN that is to be converted: clipped at a learnt threshold and rounded to L steps below it.

    ``a = threshold * clip(floor(x L / threshold + 1/2) / L, 0, 1)``; floors pass gradients straight through, so that
    ``da/dx`` is 1 where ``0 <= x <= threshold``, else 0. Integrate-and-fire neurons that start at half of the threshold
    put out exactly this mean over L steps of a constant current. It has no memory; its state is empty.

    Args:
        L: Steps, at least 1.
        threshold: At the start, greater than 0; one for all neurons of the layer.

    Source: Bu et al. 2022 (QCFS), arXiv:2303.04347.
    """

    levels, v_threshold = None, 1.0

    def __init__(self, *, L: int = 8, threshold: float = 8.0) -> None:
        super().__init__()
        if L < 1:
            raise ConfigError(f"L of QCFS, the number of steps, must be at least 1, got {L}")
        if not (math.isfinite(threshold) and threshold > 0):
            raise ConfigError(f"threshold of QCFS must be a number greater than 0, got {threshold}")
        self.L = L
        self.threshold = nn.Parameter(torch.tensor(float(threshold)))

    def forward(self, x: Tensor, v: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return the activation at every step, and an empty state."""
        share = (x / self.threshold).clamp(0, 1)
        rounded = (share * self.L + 0.5).floor() / self.L
        return (share + (rounded - share).detach()) * self.threshold, x.new_empty(0)

    def current_to_fire(self) -> Coefficient:
        """Return 1, where the threshold is above it."""
        return 1.0

    def extra_repr(self) -> str:
        """Return the steps and the threshold, for ``print(model)``."""
        return f"L={self.L}, threshold={self.threshold.item():g}"


def _checked_decay(decay: float) -> float:
    if not 0 <= decay <= 1:
        raise ConfigError(f"decay is the share of the potential kept per step, in [0, 1], got {decay}")
    return float(decay)


NEURONS: Registry[Callable[..., Neuron]] = Registry("neuron")
for _neuron in (IF, LIF, PLIF, MLF, ILIF, ReLU, QCFS):
    NEURONS.register(_neuron.__name__.lower(), _neuron)

NeuronSpec = str | Mapping[str, Any] | Neuron | Callable[[], Neuron]


def build_neuron(spec: NeuronSpec) -> Neuron:
    """Build one neuron for one place.

    Args:
        spec: A name in ``NEURONS``; ``{"kind": name, option: value, ...}``; a neuron, of which a copy is made; or a
            class or function that makes one.

    Raises:
        UnknownName: no such neuron, or it has no such option.
        ConfigError: it is none of these, or makes something else.
    """
    if isinstance(spec, str | Mapping):
        return build(NEURONS, spec)
    made = deepcopy(spec) if isinstance(spec, Neuron) else spec() if callable(spec) else spec
    if not isinstance(made, Neuron):
        raise ConfigError(
            "a neuron is given as a name, as {kind: name, ...}, as a Neuron, or as a class or function that makes one, "
            f"got {spec!r}" + (f", which makes {type(made).__name__}" if made is not spec else "")
        )
    return made


def neuron_options(spec: NeuronSpec) -> dict[str, Any]:
    """Return ``{"kind": name, option: value, ...}`` for the reader; of an object only the name of its class."""
    if isinstance(spec, Mapping):
        return dict(spec)
    return {"kind": spec if isinstance(spec, str) else type(build_neuron(spec)).__name__}

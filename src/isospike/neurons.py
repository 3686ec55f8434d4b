"""Spiking neurons: rows of one recurrence, which differ in how much they keep and how much they take in."""

import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor, nn

from isospike.errors import ConfigError
from isospike.ops import FireRule, leaky_fire
from isospike.registry import Registry, build, unknown_name
from isospike.surrogates import SURROGATES, Surrogate

Coefficient = float | Tensor


class SpikingNeuron(nn.Module, ABC):
    """A population of neurons, one for every element of a step.

    ``s, v = neuron(x)`` runs all steps of ``x [T, B, ...]`` from rest; ``neuron(x, v)`` starts from the potential
    ``v [B, ...]``. Nothing is kept in the module: the state is what goes in and what comes out.

    Args:
        rule: Fields of ``FireRule``; ``surrogate`` also by name or as ``{"kind": name, ...}``.

    Raises:
        UnknownName: an option that the neuron does not have.
    """

    def __init__(self, **rule: Any) -> None:
        super().__init__()
        own = [p.name for p in inspect.signature(type(self)).parameters.values() if p.kind is p.KEYWORD_ONLY]
        names = [f.name for f in fields(FireRule)]
        for name in rule:
            if name not in names:
                raise unknown_name(f"option of {type(self).__name__}", name, own + names)
        surrogate = rule.get("surrogate", FireRule.surrogate)
        if not isinstance(surrogate, Surrogate):
            surrogate = build(SURROGATES, surrogate)
        self.rule = FireRule(**{**rule, "surrogate": surrogate})

    @abstractmethod
    def coefficients(self) -> tuple[Coefficient, Coefficient]:
        """``(decay, gain)`` of ``h[t] = decay * v[t-1] + gain * x[t]``."""

    def forward(self, x: Tensor, v: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Spikes ``[T, B, ...]`` and the potential after the last step ``[B, ...]``; see ``leaky_fire``."""
        decay, gain = self.coefficients()
        return leaky_fire(x, v, decay=decay, gain=gain, rule=self.rule)

    def current_to_fire(self) -> Coefficient:
        """A constant current at which the neuron, from rest, fires at every step.

        A strict neuron needs more than its threshold: it is given one eighth more, which every float dtype holds.
        """
        decay, gain = self.coefficients()
        h = self.rule.v_threshold * (1.125 if self.rule.strict else 1.0)
        return (h - decay * min(self.rule.v_reset, 0.0)) / gain

    def extra_repr(self) -> str:
        """The rule, for ``print(model)``."""
        return ", ".join(f"{f.name}={getattr(self.rule, f.name)}" for f in fields(self.rule))


class IF(SpikingNeuron):
    """Integrate and fire, no leak: ``h[t] = v[t-1] + x[t]``."""

    def coefficients(self) -> tuple[Coefficient, Coefficient]:
        """(1, 1)."""
        return 1.0, 1.0


class LIF(SpikingNeuron):
    """Leaky integrate and fire, given by ``decay`` or by ``tau``.

    ``decay``: ``h[t] = decay * v[t-1] + x[t]``.
    ``tau``: ``h[t] = (1 - 1/tau) * v[t-1] + x[t] / tau``, or ``+ x[t]`` with ``decay_input=False``.

    Args:
        decay: Share of the potential kept per step, in [0, 1].
        tau: Time constant in steps, at least 1; instead of ``decay``.
        decay_input: Whether ``tau`` also divides the current; True where ``tau`` is given and this is not.
        rule: As for every ``SpikingNeuron``.

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
        super().__init__(**rule)
        if (decay is None) == (tau is None):
            raise ConfigError(f"a LIF neuron takes either decay or tau, got decay={decay} and tau={tau}")
        if decay is not None:
            if not 0 <= decay <= 1:
                raise ConfigError(f"decay is the share of the potential kept per step, in [0, 1], got {decay}")
            if decay_input is not None:
                raise ConfigError("decay_input goes with tau; a LIF neuron given by decay takes its current whole")
            self.decay, self.gain = float(decay), 1.0
        elif tau is not None:
            if not tau >= 1:
                raise ConfigError(f"tau is a time constant in steps, at least 1, got {tau}")
            self.decay = 1 - 1 / tau
            self.gain = 1.0 if decay_input is False else 1 / tau

    def coefficients(self) -> tuple[Coefficient, Coefficient]:
        """The numbers given at construction."""
        return self.decay, self.gain

    def extra_repr(self) -> str:
        """Leak and rule, for ``print(model)``."""
        return f"decay={self.decay:g}, gain={self.gain:g}, {super().extra_repr()}"


class PLIF(SpikingNeuron):
    """LIF with one learnable time constant per layer: ``h[t] = (1 - k) v[t-1] + k x[t]``, ``k = sigmoid(w)``.

    Args:
        tau: Time constant at initialisation in steps, greater than 1: ``k = 1/tau``.
        rule: As for every ``SpikingNeuron``.

    Source: Fang et al. 2021, arXiv:2007.05785, eq. 9-11.
    """

    def __init__(self, *, tau: float = 2.0, **rule: Any) -> None:
        super().__init__(**rule)
        if not tau > 1:
            raise ConfigError(f"tau of a PLIF neuron is a time constant in steps, greater than 1, got {tau}")
        self.w = nn.Parameter(torch.tensor(-math.log(tau - 1)))

    def coefficients(self) -> tuple[Coefficient, Coefficient]:
        """(1 - k, k), both with gradient."""
        k = self.w.sigmoid()
        return 1 - k, k


NEURONS: Registry[Callable[..., SpikingNeuron]] = Registry("neuron")
for _neuron in (IF, LIF, PLIF):
    NEURONS.register(_neuron.__name__.lower(), _neuron)

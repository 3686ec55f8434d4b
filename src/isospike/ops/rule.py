"""When a neuron fires, and what its potential is then."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

from isospike.errors import ConfigError
from isospike.surrogates import Arctan, Surrogate

Reset = Literal["to_value", "subtract"]


@dataclass(frozen=True)
class FireRule:
    """When a neuron fires and what happens to its potential then.

    Args:
        v_threshold: Potential at which it fires, greater than 0.
        reset: "to_value" puts the potential to ``v_reset``; "subtract" takes ``v_threshold`` from it.
        v_reset: Potential after a reset to a value, below ``v_threshold``. Potentials leak to 0 all the same.
        surrogate: Stands in for the derivative of the step.
        detach_reset: Let no gradient through the spike into the reset.
        strict: Fire where ``h > v_threshold``; otherwise where ``h >= v_threshold``.

    Raises:
        ConfigError: a value out of its range, or a ``v_reset`` that a reset by subtraction would ignore.
    """

    v_threshold: float = 1.0
    reset: Reset = "to_value"
    v_reset: float = 0.0
    surrogate: Surrogate = Arctan()
    detach_reset: bool = False
    strict: bool = False

    def __post_init__(self) -> None:
        if not (math.isfinite(self.v_threshold) and self.v_threshold > 0):
            raise ConfigError(f"v_threshold must be a number greater than 0, got {self.v_threshold}")
        if self.reset not in get_args(Reset):
            raise ConfigError(f"reset must be 'to_value' or 'subtract', got '{self.reset}'")
        if self.reset == "subtract" and self.v_reset != 0:
            raise ConfigError(f"a reset by subtraction has no v_reset, got v_reset={self.v_reset}")
        if not self.v_reset < self.v_threshold:
            raise ConfigError(f"v_reset must be below v_threshold={self.v_threshold}, got {self.v_reset}")

"""The recurrence of every neuron, over all time steps at once."""

from isospike.ops.backend import BACKENDS, use_backend
from isospike.ops.leaky_fire import leaky_fire
from isospike.ops.rule import FireRule, IntegerRule, Rule

__all__ = ["BACKENDS", "FireRule", "IntegerRule", "Rule", "leaky_fire", "use_backend"]

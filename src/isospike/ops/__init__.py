"""The recurrence of every neuron, over all time steps at once."""

from isospike.ops.leaky_fire import leaky_fire
from isospike.ops.rule import FireRule, IntegerRule, Rule

__all__ = ["FireRule", "IntegerRule", "Rule", "leaky_fire"]

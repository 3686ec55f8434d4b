"""The recurrence of every neuron, over all time steps at once."""

from isospike.ops.leaky_fire import leaky_fire
from isospike.ops.rule import FireRule

__all__ = ["FireRule", "leaky_fire"]

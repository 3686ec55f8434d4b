"""The recurrence of every neuron, over all time steps at once."""

from isospike.ops.backend import BACKENDS, asked_backend, use_backend
from isospike.ops.batch_norm import batch_norm, deviation, fixed_norm
from isospike.ops.firing import Firing
from isospike.ops.leaky_fire import leaky_fire
from isospike.ops.norm_fire import norm_fire
from isospike.ops.norm_fire_conv import norm_fire_conv
from isospike.ops.packed_conv import packed_conv
from isospike.ops.rule import FireRule, IntegerRule, Rule, SignedRule

__all__ = [
    "BACKENDS",
    "FireRule",
    "Firing",
    "IntegerRule",
    "Rule",
    "SignedRule",
    "asked_backend",
    "batch_norm",
    "deviation",
    "fixed_norm",
    "leaky_fire",
    "norm_fire",
    "norm_fire_conv",
    "packed_conv",
    "use_backend",
]

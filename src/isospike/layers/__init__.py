"""Building blocks between the neurons: time, normalisation, initialisation."""

from isospike.layers.activation_checkpointing import MEMORY, recomputed
from isospike.layers.chain import Chain
from isospike.layers.coded import (
    BiasOnce,
    Changes,
    DelayedReadout,
    Differential,
    DifferentialReadout,
    SignedIF,
)
from isospike.layers.conv import Conv2d, is_plain_conv
from isospike.layers.exact import is_exactly
from isospike.layers.fold import FoldedNeuron
from isospike.layers.init import WEIGHT_INITS
from isospike.layers.norm import BatchNorm, PerStepNorm, check_eps, synchronise_norms
from isospike.layers.pools import GlobalPool, SpikingMaxPool
from isospike.layers.readout import SpikingReadout
from isospike.layers.shortcut import PaddedShortcut
from isospike.layers.slots import SlotConv, binary_slots
from isospike.layers.statistics import HeldStatistics, one_statistics_update, statistics_held, statistics_known
from isospike.layers.steps import Steps, fold_time

__all__ = [
    "MEMORY",
    "HeldStatistics",
    "WEIGHT_INITS",
    "BatchNorm",
    "BiasOnce",
    "Chain",
    "Changes",
    "Conv2d",
    "DelayedReadout",
    "Differential",
    "DifferentialReadout",
    "FoldedNeuron",
    "GlobalPool",
    "PaddedShortcut",
    "PerStepNorm",
    "SignedIF",
    "SlotConv",
    "SpikingMaxPool",
    "SpikingReadout",
    "Steps",
    "binary_slots",
    "check_eps",
    "fold_time",
    "is_exactly",
    "is_plain_conv",
    "one_statistics_update",
    "recomputed",
    "statistics_held",
    "statistics_known",
    "synchronise_norms",
]

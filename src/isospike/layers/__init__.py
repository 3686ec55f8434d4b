"""Building blocks between the neurons: time, normalisation, initialisation."""

from isospike.layers.fold import FoldedNeuron
from isospike.layers.init import WEIGHT_INITS
from isospike.layers.norm import BatchNorm, one_statistics_update, synchronise_norms
from isospike.layers.slots import SlotConv, binary_slots
from isospike.layers.time import Chain, Steps, fold_time

__all__ = [
    "WEIGHT_INITS",
    "BatchNorm",
    "Chain",
    "FoldedNeuron",
    "SlotConv",
    "Steps",
    "binary_slots",
    "fold_time",
    "one_statistics_update",
    "synchronise_norms",
]

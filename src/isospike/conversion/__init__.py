"""From a trained ANN to a spiking network: what it does, captured, and the methods that make spikes of it."""

from isospike.conversion.capture import Uncapturable, capture
from isospike.conversion.convert import convert
from isospike.conversion.evaluation import accuracy_by_step, decisions_by_step, decisions_of
from isospike.conversion.methods import METHODS, Method, list_methods

__all__ = [
    "METHODS",
    "Method",
    "Uncapturable",
    "accuracy_by_step",
    "capture",
    "convert",
    "decisions_by_step",
    "decisions_of",
    "list_methods",
]

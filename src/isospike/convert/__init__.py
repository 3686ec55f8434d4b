"""From a trained ANN to a spiking network: what it does, captured, and the methods that make spikes of it."""

from isospike.convert.capture import Uncapturable, capture
from isospike.convert.evaluation import accuracy_by_step, decisions_by_step
from isospike.convert.methods import METHODS, Method, list_methods

__all__ = ["METHODS", "Method", "Uncapturable", "accuracy_by_step", "capture", "decisions_by_step", "list_methods"]

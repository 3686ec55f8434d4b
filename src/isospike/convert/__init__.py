"""From a trained ANN to a spiking network: what it does, captured, and the methods that make spikes of it."""

from isospike.convert.capture import Uncapturable, capture

__all__ = ["Uncapturable", "capture"]

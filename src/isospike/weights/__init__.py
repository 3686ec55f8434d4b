"""Weights in files."""

from isospike.weights.files import Tensors, load_tensors, load_weights, save_tensors

__all__ = ["Tensors", "load_tensors", "load_weights", "save_tensors"]

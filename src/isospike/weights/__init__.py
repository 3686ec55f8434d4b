"""Weights: our own files, and what others published."""

from isospike.weights.files import Tensors, load_tensors, load_weights, save_tensors
from isospike.weights.published import PUBLISHED, load_published

__all__ = ["PUBLISHED", "Tensors", "load_published", "load_tensors", "load_weights", "save_tensors"]

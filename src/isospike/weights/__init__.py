"""Weights: our own files, folders for the hub, and what others published."""

from isospike.weights.ann import load_ann_resnet
from isospike.weights.files import Tensors, load_tensors, load_weights, save_tensors, under
from isospike.weights.pretrained import from_pretrained, save_pretrained
from isospike.weights.published import PUBLISHED, load_published
from isospike.weights.shipped import shipped_weights

__all__ = [
    "PUBLISHED",
    "Tensors",
    "from_pretrained",
    "load_ann_resnet",
    "load_published",
    "load_tensors",
    "load_weights",
    "save_pretrained",
    "save_tensors",
    "shipped_weights",
    "under",
]

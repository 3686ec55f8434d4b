"""Whole networks: bodies, the model, and the zoo that names them."""

from isospike.models.card import ModelCard, model_card
from isospike.models.resnet import SpikingResNet
from isospike.models.zoo import create_ann_twin, create_model, list_models

__all__ = ["ModelCard", "SpikingResNet", "create_ann_twin", "create_model", "list_models", "model_card"]

"""Whole networks: bodies, the model, and the zoo that names them."""

from isospike.models.backbone import FeatureMaps
from isospike.models.card import ModelCard, model_card
from isospike.models.network import SpikingNetwork
from isospike.models.program_net import ProgramNet
from isospike.models.resnet import SpikingResNet
from isospike.models.spike_driven import spike_driven
from isospike.models.zoo import WEIGHTS, create_ann_twin, create_model, list_models
from isospike.residual import Domain

__all__ = [
    "WEIGHTS",
    "Domain",
    "FeatureMaps",
    "ModelCard",
    "ProgramNet",
    "SpikingNetwork",
    "SpikingResNet",
    "create_ann_twin",
    "create_model",
    "list_models",
    "model_card",
    "spike_driven",
]

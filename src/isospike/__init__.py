"""isospike: deep residual spiking neural networks, each true to its source.

import isospike as iso
model = iso.create_model("ms_resnet20")
logits = model(images)          # [B, C, H, W] -> [B, 10]
"""

from isospike.errors import IsospikeError
from isospike.models import ModelCard, SpikingResNet, create_model, list_models, model_card
from isospike.neurons import IF, LIF, NEURONS, PLIF, SpikingNeuron
from isospike.ops import FireRule, leaky_fire
from isospike.residual import TOPOLOGIES, Topology
from isospike.surrogates import SURROGATES, Arctan, Rectangle, Sigmoid, Surrogate, Triangle
from isospike.weights import from_pretrained, load_ann_resnet, load_published, save_pretrained

__version__ = "0.1.0"

__all__ = [
    "IF",
    "LIF",
    "NEURONS",
    "PLIF",
    "SURROGATES",
    "TOPOLOGIES",
    "Arctan",
    "FireRule",
    "IsospikeError",
    "ModelCard",
    "Rectangle",
    "Sigmoid",
    "SpikingNeuron",
    "SpikingResNet",
    "Surrogate",
    "Topology",
    "Triangle",
    "create_model",
    "from_pretrained",
    "leaky_fire",
    "list_models",
    "load_ann_resnet",
    "load_published",
    "model_card",
    "save_pretrained",
]

"""isospike: deep residual spiking neural networks, each true to its source.

import isospike as iso
model = iso.create_model("ms_resnet20")
logits = model(images)          # [B, C, H, W] -> [B, 10]
"""

from isospike.analysis import ENERGY_TABLES, Edge, check_edges, gradient_norms, measure_energy, measure_isometry, watch
from isospike.errors import IsospikeError
from isospike.inference import CompiledNet, EarlyExit
from isospike.layers import binary_slots
from isospike.models import (
    ModelCard,
    SpikingResNet,
    create_ann_twin,
    create_model,
    list_models,
    model_card,
    spike_driven,
)
from isospike.neurons import IF, ILIF, LIF, MLF, NEURONS, PLIF, Neuron, ReLU
from isospike.ops import FireRule, IntegerRule, leaky_fire, use_backend
from isospike.residual import TOPOLOGIES, Topology
from isospike.surrogates import SURROGATES, Arctan, Rectangle, Sigmoid, Surrogate, Triangle
from isospike.weights import from_pretrained, load_ann_resnet, load_published, save_pretrained

__version__ = "0.1.0"

__all__ = [
    "ENERGY_TABLES",
    "IF",
    "ILIF",
    "LIF",
    "MLF",
    "NEURONS",
    "PLIF",
    "SURROGATES",
    "TOPOLOGIES",
    "Arctan",
    "CompiledNet",
    "EarlyExit",
    "Edge",
    "FireRule",
    "IntegerRule",
    "IsospikeError",
    "ModelCard",
    "Neuron",
    "ReLU",
    "Rectangle",
    "Sigmoid",
    "SpikingResNet",
    "Surrogate",
    "Topology",
    "Triangle",
    "binary_slots",
    "check_edges",
    "create_ann_twin",
    "create_model",
    "from_pretrained",
    "gradient_norms",
    "leaky_fire",
    "list_models",
    "load_ann_resnet",
    "load_published",
    "measure_energy",
    "measure_isometry",
    "model_card",
    "save_pretrained",
    "spike_driven",
    "use_backend",
    "watch",
]

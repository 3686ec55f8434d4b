"""isospike: deep residual spiking neural networks, each true to its source.

import isospike as iso
model = iso.create_model("ms_resnet20")
logits = model(images)          # [B, C, H, W] -> [B, 10]
"""

from typing import TYPE_CHECKING, Any

from isospike import events, torch_version  # noqa: F401  the second checks PyTorch before anything needs it
from isospike.analysis import (
    ENERGY_TABLES,
    ConversionReport,
    Edge,
    check_edges,
    conversion_report,
    gradient_norms,
    measure_energy,
    measure_isometry,
    watch,
)
from isospike.conversion import convert, list_methods
from isospike.errors import IsospikeError
from isospike.export import export_nir, export_onnx, export_program, from_nir
from isospike.inference import CompiledNet, EarlyExit
from isospike.inputs import Inputs
from isospike.layers import binary_slots, synchronise_norms
from isospike.models import (
    FeatureMaps,
    ModelCard,
    SpikingResNet,
    create_ann_twin,
    create_model,
    list_models,
    model_card,
    spike_driven,
)
from isospike.neurons import IF, ILIF, LIF, MLF, NEURONS, PLIF, QCFS, Neuron, ReLU
from isospike.ops import FireRule, IntegerRule, leaky_fire, use_backend
from isospike.residual import TOPOLOGIES, Topology
from isospike.surrogates import SURROGATES, Arctan, Rectangle, Sigmoid, Surrogate, Triangle
from isospike.weights import from_pretrained, load_ann_resnet, load_published, save_pretrained

if TYPE_CHECKING:
    from isospike.predictor import Prediction, Predictor, load_run
    from isospike.streaming import Stream, StreamDecision

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
    "ConversionReport",
    "EarlyExit",
    "Edge",
    "FeatureMaps",
    "FireRule",
    "Inputs",
    "IntegerRule",
    "IsospikeError",
    "ModelCard",
    "Neuron",
    "Prediction",
    "Predictor",
    "QCFS",
    "ReLU",
    "Rectangle",
    "Sigmoid",
    "SpikingResNet",
    "Stream",
    "StreamDecision",
    "Surrogate",
    "Topology",
    "Triangle",
    "binary_slots",
    "check_edges",
    "conversion_report",
    "convert",
    "create_ann_twin",
    "create_model",
    "events",
    "export_nir",
    "export_onnx",
    "export_program",
    "from_nir",
    "from_pretrained",
    "gradient_norms",
    "leaky_fire",
    "list_methods",
    "list_models",
    "load_ann_resnet",
    "load_published",
    "load_run",
    "measure_energy",
    "measure_isometry",
    "model_card",
    "save_pretrained",
    "spike_driven",
    "synchronise_norms",
    "use_backend",
    "watch",
]


def __getattr__(name: str) -> Any:
    """Import what brings pydantic when it is first asked for, as models do without."""
    if name in ("Prediction", "Predictor", "load_run"):
        from isospike import predictor

        return getattr(predictor, name)
    if name in ("Stream", "StreamDecision"):
        from isospike import streaming

        return getattr(streaming, name)
    raise AttributeError(f"module 'isospike' has no attribute '{name}'")

"""Initial weights from a trained ResNet that does not spike."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from isospike.models import SpikingResNet
from isospike.neurons import SpikingNeuron
from isospike.weights.files import Tensors, load_weights
from isospike.weights.foreign import KeyMap, clean, read_state_dict, without_scale

TORCHVISION = KeyMap(
    {
        "conv1": "stem.conv",
        "bn1": "stem.norm",
        "layer{stage}.{unit}.conv{n}": "stages.{stage}.{unit}.branch.conv{n}",
        "layer{stage}.{unit}.bn{n}": "stages.{stage}.{unit}.branch.norm{n}",
        "layer{stage}.{unit}.downsample.0": "stages.{stage}.{unit}.skip.conv",
        "layer{stage}.{unit}.downsample.1": "stages.{stage}.{unit}.skip.norm",
        "fc": "head.fc",
    },
    first_stage=1,
)


def load_ann_resnet(model: SpikingResNet, weights: Path | str | Mapping[str, Tensor]) -> None:
    """Start a model from the weights of an ANN ResNet named as in torchvision.

    This is a start for training, not a trained spiking network. Convolutions, norms with their running statistics and
    classifier are copied; norms with a constant factor get the weight divided by it; what neurons learn stays as it
    is. Afterwards ``model.initialised_from`` says where the weights came from, and ``save_pretrained`` writes it down.
    For another number of classes load first, then ``model.reset_classifier``.

    Args:
        model: Of the same depth, widths, stem and projections as the ANN.
        weights: File of ``torch.save`` or safetensors, or the state dict itself.

    Raises:
        CheckpointError: the file cannot be read without running foreign code, or a name or a shape has no counterpart,
            as with another depth or a stem of three convolutions. The model is then as it was.
    """
    if isinstance(weights, Mapping):
        origin, said, tensors = "the state dict", "the state dict of an ANN ResNet", clean(weights, "the state dict")
    else:
        origin, said, tensors = str(weights), f"the ANN ResNet in {Path(weights).name}", read_state_dict(weights)
    own = TORCHVISION.rename_all(tensors, origin, "a ResNet of torchvision")
    load_weights(model, {**_learnt_by_neurons(model), **without_scale(model, own)}, origin)
    model.initialised_from = said  # type: ignore[assignment]


def _learnt_by_neurons(model: SpikingResNet) -> Tensors:
    return {
        f"{path}.{name}": parameter.detach().clone()
        for path, module in model.named_modules()
        if isinstance(module, SpikingNeuron)
        for name, parameter in module.named_parameters()
    }

"""Facts of a model before it is trained: its counts, its preset and its source."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from isospike.errors import ConfigError
from isospike.layers import BatchNorm
from isospike.models.resnet import SpikingResNet
from isospike.models.zoo import create_model
from isospike.neurons import Neuron, neuron_options


@dataclass(frozen=True)
class ModelCard:
    """The facts of a model.

    Args:
        name: Model name.
        topology: Its first part, no alias.
        source: Paper of the topology.
        T: Time steps of the preset.
        input_size: Height and width that the counts below are for.
        num_classes: Size of the logits.
        parameters: Learnable numbers.
        neurons: Spiking neurons.
        stem_macs: Multiply-accumulates of the stem, once per static image.
        unit_macs: Of the units' branches, per time step.
        projection_macs: Of the projections in the skips, per time step.
        head_macs: Of the head, per time step.
        neuron: Preset of the neuron.
        v_threshold: Its (first) threshold.
        norm: What its norms add to the variance, "eps", and to the root of it, "root_eps".
        words: The topology's row: cell, last, after, project, join, reach, combine.
    """

    name: str
    topology: str
    source: str
    T: int
    input_size: int
    num_classes: int
    parameters: int
    neurons: int
    stem_macs: int
    unit_macs: int
    projection_macs: int
    head_macs: int
    neuron: Mapping[str, Any]
    v_threshold: float
    norm: Mapping[str, float]
    words: Mapping[str, str]

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one static image over all T steps, every one counted as dense."""
        return self.stem_macs + self.T * (self.unit_macs + self.projection_macs + self.head_macs)

    def as_dict(self) -> dict[str, Any]:
        """Return all of it for JSON, the total included."""
        return {**asdict(self), "macs": self.macs}


def model_card(name: str, *, input_size: int | None = None, **options: Any) -> ModelCard:
    """Make the card of a model, counted on a model without memory; arguments as for ``create_model``.

    Args:
        name: Model name.
        input_size: Height and width to count for; None: that of the body.
        options: As for ``create_model``.

    Raises:
        ConfigError: feature maps are asked for, or as for ``create_model``.
        UnknownName: as for ``create_model``.
    """
    if options.get("features_only"):
        raise ConfigError(
            "a card is that of a whole network, without features_only: "
            "what there is to say of its feature maps stands in the feature_info of create_model's network"
        )
    with torch.device("meta"):
        model = create_model(name, **options)
    size = model.layout.input_size if input_size is None else input_size
    row, T = model.topology, model.T
    macs, neurons = _count(model, size)
    return ModelCard(
        name=name,
        topology=row.name,
        source=row.source,
        T=T,
        input_size=size,
        num_classes=model.num_classes,
        parameters=sum(p.numel() for p in model.parameters()),
        neurons=neurons,
        stem_macs=macs["stem"],
        unit_macs=macs["stages"],
        projection_macs=macs["skip"],
        head_macs=macs["head"],
        neuron=neuron_options(row.neuron),
        v_threshold=row.v_threshold,
        norm={"eps": row.norm_eps, "root_eps": row.norm_root_eps},
        words={
            "cell": row.cell,
            "last": row.last,
            "after": row.after,
            "project": row.project,
            "join": row.join.name if row.join else "none",
            "reach": row.reach,
            "combine": row.combine,
        },
    )


def _count(model: SpikingResNet, size: int) -> tuple[dict[str, int], int]:
    """Count MACs by part and neurons, for one sample and step; the model is of no other use afterwards.

    Only shapes matter, so neurons and norms pass on what they get: that is most of the work of a tensor without memory.
    """
    macs = {"stem": 0, "stages": 0, "skip": 0, "head": 0}
    neurons = 0

    def count_macs(part: str, layer: nn.Conv2d | nn.Linear, output: Tensor) -> None:
        macs[part] += output.numel() * (layer.weight.numel() // layer.weight.shape[0])

    def count_neurons(x: Tensor, v: Tensor | None = None) -> tuple[Tensor, Tensor]:
        nonlocal neurons
        neurons += x.numel()
        return x, x[0]

    for name, module in model.named_modules():
        part = "skip" if ".skip." in name else name.split(".")[0]
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(lambda m, _, out, part=part: count_macs(part, m, out))
        elif isinstance(module, Neuron):
            module.forward = count_neurons  # type: ignore[method-assign]
        elif isinstance(module, BatchNorm):
            module.forward = lambda x: x  # type: ignore[method-assign]
    model.T = 1
    with torch.no_grad():
        model.eval()(torch.empty(1, model.in_channels, size, size, device="meta"), T=1)
    return macs, neurons

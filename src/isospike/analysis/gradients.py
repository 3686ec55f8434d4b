"""The gradient of the loss along depth, from one real backward."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from isospike.analysis.instrument import entrances
from isospike.analysis.isometry import as_clip
from isospike.analysis.untouched import in_training_mode
from isospike.errors import ConfigError
from isospike.models import SpikingNetwork
from isospike.residual import ResidualUnit
from isospike.seeding import derive_seed


@dataclass(frozen=True)
class GradientNorms:
    """Euclidean norms of the gradient of the loss.

    Args:
        loss: Cross-entropy of the mean logits.
        inputs: By what each unit reads, from the stem to the head.
        weights: By the weight of each convolution that is trained.
    """

    loss: float
    inputs: dict[str, float]
    weights: dict[str, float]

    def as_dict(self) -> dict[str, Any]:
        """Return all of it as plain values, for JSON."""
        return {"loss": self.loss, "inputs": self.inputs, "weights": self.weights}


def gradient_norms(
    model: SpikingNetwork, images: Tensor, labels: Tensor, *, T: int | None = None, seed: int = 0
) -> GradientNorms:
    """Run one forward in training mode and one backward; the model keeps its gradients, statistics and mode.

    It takes the memory of a training step. Static images are copied to T steps, as by ``measure_isometry``.

    Args:
        model: Trained or not. Of one without residual units there are gradients of weights alone.
        images: Normalised ``[B, C, H, W]`` or ``[T, B, C, H, W]``.
        labels: int64 ``[B]``.
        T: Time steps for static images; the model's own where it is not given.
        seed: Of dropout.

    Raises:
        ConfigError: a model without a classifier, labels that it does not know, images that are not finite.
    """
    clip, _ = as_clip(model, images, T)
    _check_labels(model, labels, batch=clip.shape[1])
    streams: dict[str, Tensor] = {}

    def keep(name: str, x: Tensor) -> None:
        streams.setdefault(name, x)

    units = {name: module for name, module in model.named_modules() if isinstance(module, ResidualUnit)}
    hooks = [
        module.register_forward_pre_hook(lambda _, inputs, name=name: keep(name, inputs[0]))
        for name, unit in units.items()
        for module in entrances(unit)
    ]
    try:
        with in_training_mode([model]), torch.enable_grad():
            torch.manual_seed(derive_seed(seed, 0))
            loss = F.cross_entropy(model(clip.detach().requires_grad_()), labels)
    finally:
        for hook in hooks:
            hook.remove()
    weights = {
        name: module.weight
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d) and module.weight.requires_grad
    }
    gradients = torch.autograd.grad(loss, [*streams.values(), *weights.values()], materialize_grads=True)
    norms = [gradient.double().norm().item() for gradient in gradients]
    found = GradientNorms(loss.item(), dict(zip(streams, norms, strict=False)), {})
    found.weights.update(zip(weights, norms[len(streams) :], strict=True))
    return found


def _check_labels(model: SpikingNetwork, labels: Tensor, *, batch: int) -> None:
    if not model.num_classes:
        raise ConfigError("a backbone has no loss to take a gradient of: create it with num_classes")
    classes = model.num_classes
    if labels.shape != (batch,):
        raise ConfigError(f"a batch of {batch} images takes labels of shape [{batch}], got {list(labels.shape)}")
    if labels.min() < 0 or labels.max() >= classes:
        raise ConfigError(f"labels of this model run from 0 to {classes - 1}, got {labels.min()} to {labels.max()}")

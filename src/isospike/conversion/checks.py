"""What an ANN must be before anything is made of it."""

from typing import Any

import torch
from torch import nn

from isospike.conversion.norms import is_norm_like
from isospike.errors import ConfigError
from isospike.neurons import Neuron


def check_ann(ann: nn.Module) -> None:
    """Refuse an ANN whose answers are not those that it would be tested with.

    Raises:
        ConfigError: it has no weights, is in training mode or a spiking network, a norm has no statistics or those of
            no batch, or a weight is not finite; names the module.
    """
    if next(ann.parameters(), None) is None:
        raise ConfigError(f"this {type(ann).__name__} has no weights, so there is nothing to convert")
    for name, module in ann.named_modules():
        if module.training:
            where = f"its '{name}' is" if name else "it is"
            raise ConfigError(
                f"an ANN is converted as it is tested, and {where} in training mode: call ann.eval() first"
            )
        if isinstance(module, Neuron) and module.levels is not None:
            raise ConfigError(
                f"'{name}' puts out spikes, so this network is a spiking one already: an ANN to convert has "
                "rectifiers, as iso.create_ann_twin or neuron={'kind': 'relu'} makes them"
            )
        if is_norm_like(module):
            _check_statistics(name, module)
    for name, tensor in (*ann.named_parameters(), *ann.named_buffers()):
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise ConfigError(f"'{name}' of the ANN holds numbers that are not finite: it has diverged, or is damaged")


def _check_statistics(name: str, norm: Any) -> None:
    mean, var = norm.running_mean, norm.running_var
    if mean is None or var is None:
        raise ConfigError(
            f"the batch norm '{name}' has no running statistics, so it cannot be folded into weights: train the ANN "
            "with track_running_stats=True"
        )
    if torch.equal(mean, torch.zeros_like(mean)) and torch.equal(var, torch.ones_like(var)):
        raise ConfigError(
            f"the batch norm '{name}' has the statistics that it began with: it has seen no batch, or they were not "
            "saved with the weights"
        )

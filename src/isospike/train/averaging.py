"""A moving average of the weights of a run, which never makes the host wait for a device."""

from copy import deepcopy
from typing import cast

import torch
from torch import Tensor, nn


class MovingAverage:
    """``average = decay * average + (1 - decay) * model``, over parameters and buffers; it starts as the first model.

    PyTorch's ``AveragedModel`` brings its counter to the device at every step, and the host waits until it is there.

    Args:
        model: What it has the shape of.
        decay: In [0, 1).
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.module, self.decay, self.updates = deepcopy(model), decay, 0

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take in the model as it is now."""
        of_average, of_model = (list(module.state_dict().values()) for module in (self.module, model))
        pairs = list(zip(of_average, of_model, strict=True))
        floats = [pair for pair in pairs if self.updates and pair[0].is_floating_point()]
        if floats:
            average, now = (cast(list[Tensor], list(tensors)) for tensors in zip(*floats, strict=True))
            torch._foreach_lerp_(average, now, 1 - self.decay)
        for mean, value in pairs:
            if not (self.updates and mean.is_floating_point()):
                mean.copy_(value)  # the first model, or a count
        self.updates += 1

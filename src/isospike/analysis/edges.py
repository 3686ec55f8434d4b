"""What every convolution of a model really reads, beside what its row promises."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from isospike.errors import ConfigError
from isospike.graph import promised_domains
from isospike.models import SpikingNetwork
from isospike.residual import Domain


@dataclass(frozen=True)
class Edge:
    """The input of one convolution or linear layer.

    Args:
        layer: Its name in the model.
        promised: What its row, or its program, says it reads.
        found: What it read: integers up to the largest seen, or real numbers.
        smallest: The smallest number read.
        largest: The largest number read.
    """

    layer: str
    promised: Domain
    found: Domain
    smallest: float
    largest: float

    @property
    def kept(self) -> bool:
        """Whether what was found is within what was promised."""
        bound, found = self.promised.largest, self.found.largest
        if bound is None:
            return True
        return found is not None and found <= bound and self.promised.signed >= self.found.signed


@torch.no_grad()
def check_edges(model: SpikingNetwork, images: Tensor, *, T: int | None = None) -> list[Edge]:
    """Run ``images`` through ``model`` in eval mode and compare what every layer with weights reads with its promise.

    Args:
        model: The model; its mode is put back.
        images: ``[B, C, H, W]`` or ``[T, B, C, H, W]``, real images for a verdict that means something.
        T: Time steps for static images; the model's own where it is not given.

    Returns:
        One ``Edge`` per convolution and linear layer that ran, in the order of the network.

    Raises:
        ConfigError: an image holds a number that is not finite.
    """
    if not images.isfinite().all():
        raise ConfigError("the images hold numbers that are not finite: no verdict on what flows would mean anything")
    seen: dict[nn.Module, tuple[bool, float, float]] = {}

    def look(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        x = inputs[0]
        integer, low, high = bool((x == x.round()).all()), x.min().item(), x.max().item()
        before = seen.get(layer, (True, low, high))
        seen[layer] = (integer and before[0], min(low, before[1]), max(high, before[2]))

    promises = promised_domains(model)
    hooks = [layer.register_forward_pre_hook(look) for layer in promises]
    training = model.training
    try:
        model.eval()(images, T=T)
    finally:
        model.train(training)
        for hook in hooks:
            hook.remove()
    return [_edge(name, promises[layer], *seen[layer]) for name, layer in model.named_modules() if layer in seen]


def _edge(name: str, promised: Domain, integer: bool, low: float, high: float) -> Edge:
    found = Domain(int(max(high, -low)), signed=low < 0) if integer else Domain(None)
    return Edge(name, promised, found, low, high)

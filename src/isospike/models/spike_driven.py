"""A model whose convolutions read spikes alone, though its neurons count."""

from copy import deepcopy

from torch import nn

from isospike.graph import promised_domains
from isospike.layers import Chain, SlotConv
from isospike.models.resnet import SpikingResNet
from isospike.residual import REAL


def spike_driven(model: SpikingResNet) -> SpikingResNet:
    """Copy ``model`` so that every convolution that reads counts of spikes reads them as binary slots.

    Up to the rounding of sums it gives what ``model`` gives, and its convolutions but for those that its row feeds with
    real numbers (the stem, some projections) see spikes alone. Weights are copied; ``state_dict`` has other names.
    """
    expanded = deepcopy(model)
    promises = promised_domains(expanded)
    for chain in [module for module in expanded.modules() if isinstance(module, Chain)]:
        for name, layer in list(chain.named_children()):
            levels = promises.get(layer, REAL).largest
            if isinstance(layer, nn.Conv2d) and levels is not None and levels > 1:
                setattr(chain, name, SlotConv(layer, levels))
    return expanded

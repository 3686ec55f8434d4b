"""Small builders that several test files share."""

import torch
from torch import Tensor, nn

from isospike.layers import BatchNorm
from isospike.neurons import NEURONS, Neuron, SpikingNeuron
from isospike.ops import FireRule
from isospike.registry import build

# Arguments of a training run of seconds.
TINY = [
    "--recipe", "digits_ms_resnet20", "--set", "model.name=ms_resnet8", "--set", "model.T=2", "--set", "data.size=8",
    "--set", "train.epochs=2", "--set", "train.tensorboard=false",
]  # fmt: skip

# Options that every neuron of the registry can be built with, so that a new one is tested without a new list.
REQUIRED = {"lif": {"decay": 0.25}}


def make_neuron(kind: str, **rule) -> Neuron:
    return build(NEURONS, {"kind": kind, **REQUIRED.get(kind, {}), **rule})


SPIKING = [kind for kind in NEURONS if isinstance(make_neuron(kind), SpikingNeuron)]
STEPPING = [kind for kind in SPIKING if isinstance(make_neuron(kind).rule, FireRule)]


def dyadic(*shape: int, low: float = -1.0, high: float = 2.0, dtype=torch.float32) -> Tensor:
    """Multiples of 1/64: with decays such as 1/4 every product and sum of a few steps is exact."""
    return (torch.randint(int(low * 64), int(high * 64) + 1, shape) / 64).to(dtype)


def enliven(model: nn.Module) -> nn.Module:
    """Give every norm the statistics and weights of a trained one, so that all neurons have something to do."""
    for module in model.modules():
        if isinstance(module, BatchNorm):
            with torch.no_grad():
                module.weight.uniform_(0.4, 1.2)
                module.bias.uniform_(-0.1, 0.4)
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.05, 0.2)
    return model

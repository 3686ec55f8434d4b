"""Networks in which every sum is exact, so that two ways to compute them must agree to the last bit."""

import torch
from torch import Tensor, nn

import isospike as iso
from helpers import REQUIRED
from isospike.conversion.differential import told_as_changes
from isospike.graph import record
from isospike.layers import (
    BatchNorm,
    Conv2d,
    DelayedReadout,
    Differential,
    GlobalPool,
    PaddedShortcut,
    SignedIF,
    SpikingMaxPool,
    SpikingReadout,
)
from isospike.models import ProgramNet
from isospike.neurons import NEURONS
from isospike.residual import JOINS, REACHES

T = 3


@torch.no_grad()
def exact(model: nn.Module) -> nn.Module:
    """Few weights, all of few bits, and norms that are such an affine; in eval."""
    generator = torch.Generator().manual_seed(0)

    def whole(low: int, high: int, like: Tensor) -> Tensor:
        return torch.randint(low, high, like.shape, generator=generator).to(like.dtype)

    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            weight = module.weight
            kept = torch.rand(weight.shape, generator=generator) < max(0.2, 4 / weight[0].numel())
            weight.copy_(whole(-2, 4, weight) / 8 * kept)
            if module.bias is not None:
                module.bias.copy_(whole(-2, 3, module.bias) / 8)
        if isinstance(module, BatchNorm):
            module.eps, module.root_eps, module.scale = 0.0, 1e-30, 0.5
            module.weight.copy_(whole(1, 3, module.weight))
            module.bias.copy_(whole(-1, 3, module.bias) / 8)
            module.running_mean.copy_(whole(-2, 3, module.bias) / 8)
            module.running_var.fill_(1)
    return model.eval()


def images(model: nn.Module, batch: int = 2, size: int | tuple[int, int] = 16) -> Tensor:
    height, width = (size, size) if isinstance(size, int) else size
    return torch.randint(0, 5, (batch, model.in_channels, height, width)) / 4


def clips(model: nn.Module, batch: int = 2, size: int | tuple[int, int] = 16) -> Tensor:
    return torch.stack([images(model, batch, size) for _ in range(T)])


def zoo(name: str, **options) -> nn.Module:
    return exact(iso.create_model(name, T=T, num_classes=5, **options))


ROWS = [(f"{topology}_resnet8", {}) for topology in iso.TOPOLOGIES]
JOINED = [("sew_resnet8", {"join": join}) for join in JOINS if join != "add"]
REACHING = [("da_cns_resnet8", {"reach": reach}) for reach in REACHES if reach != "stage"]
OTHERS = [
    ("ms_resnet8", {"per_step_norm": True}),
    ("da_nsc_resnet8", {"per_step_norm": True}),  # the first norm reads an image that stands still
    ("da_nsc_resnet14", {"combine": "rsqrt"}),
    ("ms_resnet18", {"width": 4}),  # a max pool
    ("sew_resnet18", {"width": 4}),
    ("vanilla_resnet19", {"width": 4}),  # neurons in the head
]


def layers(*modules: nn.Module, join: bool = False, last: nn.Module | None = None) -> ProgramNet:
    """A network of some layers in a row, of 2 channels, ``join``ed to what they read; the classifier, and ``last``."""
    named = {f"layers.{place}": module for place, module in enumerate(modules)}
    head: dict[str, nn.Module] = {"pool": GlobalPool(), "fc": nn.Linear(_channels(modules), 5)}
    head |= {} if last is None else {"last": last}

    def forward(x, steps):
        first, *rest = named.values()
        x = out = steps.through(first, x)
        for module in rest:
            out = steps.through(module, out)
        out = out + x if join else out
        for module in head.values():
            out = steps.through(module, out)
        return [out]

    return exact(ProgramNet(record(forward, 2), named | head, T=T))


def _channels(modules) -> int:
    return next((m.out_channels for m in reversed(modules) if hasattr(m, "out_channels")), 2)


def conv() -> Conv2d:
    return Conv2d(2, 2, 3, padding=1)


def neuron(kind: str, **options) -> nn.Module:
    return iso.neurons.build_neuron({"kind": kind, **REQUIRED.get(kind, {}), **options})


NEURON_LAYERS = {
    **{kind: lambda kind=kind: layers(conv(), neuron(kind), conv()) for kind in NEURONS},
    "subtract": lambda: layers(conv(), neuron("if", reset="subtract"), conv()),
    "to a value": lambda: layers(conv(), neuron("if", v_threshold=0.25, v_reset=-0.5, strict=True), conv()),
    "tau": lambda: layers(conv(), neuron("lif", decay=None, tau=2.0), conv()),
    "levels": lambda: layers(conv(), neuron("mlf", decay=0.5, levels=2, v_threshold=0.25, v_step=0.5), conv()),
    "behind a neuron": lambda: layers(conv(), neuron("if"), neuron("lif"), conv(), join=True),
    "spiking max pool": lambda: layers(conv(), neuron("if"), SpikingMaxPool(3, 2, 1), conv()),
    "readout": lambda: _readout(),
    "takes back": lambda: layers(conv(), SignedIF(3), conv()),
    "tells changes": lambda: told_as_changes(layers(conv(), Differential(2), conv())),
    "waits": lambda: layers(conv(), neuron("if"), conv(), last=DelayedReadout(1)),
    "folded": lambda: _folded(),
}
POOLS = {
    "max": nn.MaxPool2d(3, 2, 1),
    "max, a window beyond": nn.MaxPool2d(2, 2, ceil_mode=True),
    "max, far apart": nn.MaxPool2d(2, 3, dilation=2, ceil_mode=True),
    "average": nn.AvgPool2d(2, 2),
    "average with the padding": nn.AvgPool2d(2, 1, 1),
    "average without it": nn.AvgPool2d((2, 2), 2, (1, 0), count_include_pad=False),
    "average, a window beyond": nn.AvgPool2d(2, 2, ceil_mode=True, count_include_pad=False),
    "shortcut": PaddedShortcut(2, 2, 1, 2),
    "pixels": PaddedShortcut(2, 3),
    "groups": Conv2d(2, 4, (3, 1), stride=(2, 1), padding=(0, 2), dilation=(1, 2), groups=2),
}


def pooled(name: str) -> ProgramNet:
    return layers(conv(), neuron("if"), POOLS[name], join=False)


def _readout() -> ProgramNet:
    named = {"conv": conv(), "spike": neuron("if"), "flat": nn.Flatten(), "fc": nn.Linear(2 * 6 * 7, 4)}
    named["readout"] = SpikingReadout()

    def forward(x, steps):
        for module in named.values():
            x = steps.through(module, x)
        return [x]

    net = exact(ProgramNet(record(forward, 2), named, T=T))
    net.fc.bias.data = torch.arange(1, 5) / 4  # where it starts decides which of them fire first
    return net


def _folded() -> ProgramNet:
    norm = exact(nn.Sequential(BatchNorm(2)))[0]
    norm.weight.data[1] = -1  # it fires below a threshold
    return layers(conv(), iso.layers.FoldedNeuron(norm, neuron("if")), conv())

"""A residual spiking network from a plain description, out of the layers of whichever library asks.

A description is data: ``stem``, ``opening``, ``closing`` are lists of layers; ``units`` are ``{branch, skip, after,
join}`` of such lists; ``classifier`` is a layer. A layer is ``{"type": "conv" | "norm" | "spike" | "pool" |
"max_pool" | "linear", "name": ..., options}``.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

Layer = Mapping[str, Any]
Makers = Mapping[str, Callable[[Layer], nn.Module]]


class Segment(nn.Sequential):
    """Layers that are recomputed together where memory is saved; a convolution begins a new segment."""


class Unit(nn.Module):
    """Branch, skip and how they are joined; all of them on ``[T, B, C, H, W]``."""

    def __init__(self, unit: Mapping[str, Any], chain: Callable[[Iterable[Layer]], nn.Module]) -> None:
        super().__init__()
        self.branch, self.skip, self.after = (chain(unit[part]) for part in ("branch", "skip", "after"))
        self.join = unit["join"]

    def forward(self, x: Tensor) -> Tensor:
        """Run one unit."""
        branch = self.branch(x)
        if self.join is None:
            return self.after(branch)
        skip = self.skip(x)
        joined = branch + skip if self.join == "add" else branch * skip if self.join == "and" else (1 - branch) * skip
        return self.after(joined)


class Net(nn.Module):
    """Static images ``[B, C, H, W]`` to logits ``[B, K]``, the mean over time.

    Args:
        description: See above.
        makers: From the type of a layer to a module of the library, which takes ``[T, B, ...]``.
        T: Time steps; the stem sees the image once, and its currents are shown T times.
    """

    def __init__(self, description: Mapping[str, Any], makers: Makers, T: int) -> None:
        super().__init__()
        self.T, self.layers = T, dict[str, nn.Module]()

        def layer(spec: Layer) -> nn.Module:
            module = self.layers[spec["name"]] = makers[spec["type"]](spec)
            return module

        def chain(specs: Iterable[Layer]) -> nn.Module:
            groups: list[list[nn.Module]] = []
            for spec in specs:
                if spec["type"] == "conv" or not groups:
                    groups.append([])
                groups[-1].append(layer(spec))
            return nn.Sequential(*(Segment(*group) for group in groups))

        self.stem, self.opening = chain(description["stem"]), chain(description["opening"])
        self.units = nn.Sequential(*(Unit(unit, chain) for unit in description["units"]))
        self.closing, self.classifier = chain(description["closing"]), layer(description["classifier"])

    def forward(self, x: Tensor) -> Tensor:
        """Return logits."""
        current = self.stem(x.unsqueeze(0))
        current = current.expand(self.T, *current.shape[1:])
        out = self.closing(self.units(self.opening(current)))
        return self.classifier(out.mean((-2, -1))).mean(0)

    @torch.no_grad()
    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Load weights and running statistics by ``name.tensor``; all must fit."""
        for name, module in self.layers.items():
            own = {key: weights[f"{name}.{key}"] for key in module.state_dict() if key != "num_batches_tracked"}
            missing = module.load_state_dict(own, strict=False).missing_keys
            if missing not in ([], ["num_batches_tracked"]):
                raise ValueError(f"{name} lacks {missing}")


class Ann(Net):
    """The same without time: images to logits, out of PyTorch's own layers.

    Args:
        description: As of ``Net``; its neurons are rectifiers.
    """

    def __init__(self, description: Mapping[str, Any]) -> None:
        super().__init__(description, ANN_MAKERS, T=1)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits."""
        out = self.closing(self.units(self.opening(self.stem(x))))
        return self.classifier(out.mean((-2, -1)))


def convolution(make: Callable[..., nn.Module], spec: Layer) -> nn.Module:
    """Call ``make`` with the signature of ``nn.Conv2d``."""
    return make(spec["in"], spec["out"], spec["kernel"], spec["stride"], spec["padding"], bias=spec["bias"])


def mean_pool(make: Callable[..., nn.Module], spec: Layer) -> nn.Module:
    """Call ``make`` with the signature of ``nn.AvgPool2d``."""
    return make(spec["kernel"], ceil_mode=True, count_include_pad=False)


def max_pool(make: Callable[..., nn.Module], spec: Layer) -> nn.Module:
    """Call ``make`` with the signature of ``nn.MaxPool2d``."""
    return make(spec["kernel"], spec["stride"], spec["padding"])


ANN_MAKERS: Makers = {
    "conv": lambda spec: convolution(nn.Conv2d, spec),
    "norm": lambda spec: nn.BatchNorm2d(spec["channels"], eps=spec["eps"]),
    "relu": lambda spec: nn.ReLU(),
    "pool": lambda spec: mean_pool(nn.AvgPool2d, spec),
    "max_pool": lambda spec: max_pool(nn.MaxPool2d, spec),
    "linear": lambda spec: nn.Linear(spec["in"], spec["out"], bias=spec["bias"]),
}

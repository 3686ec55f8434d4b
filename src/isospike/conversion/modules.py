"""What a module of an ANN calls, as the function of that name would be called."""

from collections.abc import Callable
from typing import Any

from torch import nn

from isospike.conversion.builder import Unsupported
from isospike.layers import Conv2d, GlobalPool, is_exactly
from isospike.neurons import ReLU


def _of(name: str, *attributes: str) -> Callable[[nn.Module], tuple[str, tuple[Any, ...]]]:
    """Return the call of ``name`` with these attributes of the module behind the map."""
    return lambda module: (name, tuple(getattr(module, attribute) for attribute in attributes))


def _conv(module: nn.Conv2d) -> tuple[str, tuple[Any, ...]]:
    if module.padding_mode != "zeros":
        raise Unsupported(f"padding_mode='{module.padding_mode}' is no padding with zeros: train with zeros")
    return "conv2d", (module.weight, module.bias, module.stride, module.padding, module.dilation, module.groups)


_relu = _of("relu")

CALLS: dict[type[nn.Module], Callable[[Any], tuple[str, tuple[Any, ...]]]] = {
    nn.Conv2d: _conv,
    Conv2d: _conv,
    nn.Linear: _of("linear", "weight", "bias"),
    nn.ReLU: _relu,
    ReLU: _relu,
    nn.MaxPool2d: _of("max_pool2d", "kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices"),
    nn.AvgPool2d: _of(
        "avg_pool2d", "kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override"
    ),
    nn.AdaptiveAvgPool2d: _of("adaptive_avg_pool2d", "output_size"),
    nn.AdaptiveMaxPool2d: _of("adaptive_max_pool2d", "output_size", "return_indices"),
    GlobalPool: lambda module: ("mean", ((2, 3),)),
    nn.Flatten: _of("flatten"),
    nn.Unflatten: _of("reshape"),
    nn.Identity: _of("contiguous"),
    nn.Dropout: _of("dropout"),
    nn.Dropout2d: _of("dropout"),
}


def call_of(module: nn.Module) -> tuple[str, tuple[Any, ...]] | None:
    """Return the name and the arguments behind the map; None where its class is not known."""
    return next((call(module) for kind, call in CALLS.items() if is_exactly(module, kind)), None)


def is_in_place(module: nn.Module) -> bool:
    """Return whether it writes into the map that it reads."""
    return getattr(module, "inplace", False) is True

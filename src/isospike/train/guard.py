"""When a number is not finite: which layer it came from."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


def first_bad_place(model: nn.Module, forward: Callable[[], Tensor]) -> str:
    """In words, where the finite numbers end first: a parameter, a layer's output, a gradient, or the loss.

    Layers are looked at even where the loss is finite: a neuron that gets no number does not fire, and hides it.

    Args:
        model: The model that ``forward`` runs, with the gradients of the backward pass, if it came to one.
        forward: One forward pass and its loss.
    """
    return (
        _bad_parameter(model)
        or _bad_output(model, forward)
        or _bad_gradient(model)
        or "every layer's output is finite, the loss itself is not"
    )


def _bad_parameter(model: nn.Module) -> str:
    for name, parameter in model.named_parameters():
        if not parameter.isfinite().all():
            return f"the parameter '{name}' holds values that are not finite"
    return ""


def _bad_output(model: nn.Module, forward: Callable[[], Tensor]) -> str:
    found: list[str] = []

    def look(name: str, layer: nn.Module, output: Any) -> None:
        tensor = output[0] if isinstance(output, tuple) else output
        if not found and not tensor.isfinite().all():
            found.append(f"the first layer whose output is not finite is '{name}' ({type(layer).__name__})")

    hooks = [
        layer.register_forward_hook(lambda layer, _, output, name=name: look(name, layer, output))
        for name, layer in model.named_modules()
        if not list(layer.children())
    ]
    try:
        with torch.no_grad():
            forward()
    finally:
        for hook in hooks:
            hook.remove()
    return found[0] if found else ""


def _bad_gradient(model: nn.Module) -> str:
    """The backward pass runs from the head to the stem."""
    for name, parameter in reversed(list(model.named_parameters())):
        if parameter.grad is not None and not parameter.grad.isfinite().all():
            return f"coming from the head, the first gradient that is not finite is that of '{name}'"
    return ""

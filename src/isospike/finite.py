"""Where numbers stop being finite: which tensors, and which layer they came from."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from isospike.layers import statistics_known


def not_finite(tensors: Mapping[str, Tensor]) -> str:
    """Name the tensors that hold NaN or infinity: the first, and how many more; "" for none."""
    names = [name for name, tensor in tensors.items() if tensor.is_floating_point() and not tensor.isfinite().all()]
    if not names:
        return ""
    return f"'{names[0]}'" + (f" and {len(names) - 1} more tensors" if len(names) > 1 else "")


def first_bad_place(model: nn.Module, forward: Callable[[], Tensor]) -> str:
    """Say where the finite numbers end first.

    That is a parameter, a running statistic, a layer's output, a gradient, or the loss.

    Layers are looked at even where the loss is finite: a neuron that gets no number does not fire, and hides it.
    Running statistics stay as they are.

    Args:
        model: The model that ``forward`` runs, with the gradients of the backward pass, if it came to one. In
            training mode it does not read its running statistics.
        forward: One forward pass and its loss.
    """
    return (
        _bad_tensor("parameter", model.named_parameters())
        or ("" if model.training else _bad_tensor("buffer", model.named_buffers()))
        or _bad_output(model, forward)
        or _bad_gradient(model)
        or "every layer's output is finite, the loss itself is not"
    )


def _bad_tensor(kind: str, tensors: Iterable[tuple[str, Tensor]]) -> str:
    for name, tensor in tensors:
        if not tensor.isfinite().all():
            return f"the {kind} '{name}' holds values that are not finite"
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
        with torch.no_grad(), statistics_known():
            forward()
    finally:
        for hook in hooks:
            hook.remove()
    return found[0] if found else ""


def _bad_gradient(model: nn.Module) -> str:
    """Return the backward pass runs from the head to the stem."""
    for name, parameter in reversed(list(model.named_parameters())):
        if parameter.grad is not None and not parameter.grad.isfinite().all():
            return f"coming from the head, the first gradient that is not finite is that of '{name}'"
    return ""

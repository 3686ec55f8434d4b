"""When a number is not finite: which layer it came from, and what is left of a run."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from isospike.errors import RunFailed
from isospike.layers import statistics_known
from isospike.weights import not_finite

ADVICE = "Try a lower optim.lr, train.clip_norm, or train.precision fp32."


def check_state(tensors: Mapping[str, Tensor], step: int, checkpoint: Path) -> None:
    """Refuse to save NaN or infinity in place of a checkpoint that has none.

    Args:
        tensors: What would be saved: weights, running statistics, averages and the state of the optimiser.
        step: Steps done.
        checkpoint: The last one of the run.

    Raises:
        RunFailed: names the first tensor.
    """
    if names := not_finite(tensors):
        raise RunFailed(f"after step {step}, what is not finite is {names}. {ADVICE}{what_is_left(checkpoint)}")


def what_is_left(checkpoint: Path) -> str:
    """A sentence about the last checkpoint of a run, with a space in front; "" where there is none.

    ``check_state`` lets none be written that is not finite.
    """
    return f" The last checkpoint, {checkpoint}, is from before." if checkpoint.is_file() else ""


def first_bad_place(model: nn.Module, forward: Callable[[], Tensor]) -> str:
    """In words, where the finite numbers end first: a parameter, a running statistic, a layer's output, a gradient,
    or the loss.

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
    """The backward pass runs from the head to the stem."""
    for name, parameter in reversed(list(model.named_parameters())):
        if parameter.grad is not None and not parameter.grad.isfinite().all():
            return f"coming from the head, the first gradient that is not finite is that of '{name}'"
    return ""

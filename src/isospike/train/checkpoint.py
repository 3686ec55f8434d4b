"""Checkpoints of a run: weights, optimiser and configuration by name, in one file each."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from isospike.config import RunConfig
from isospike.errors import CheckpointError
from isospike.weights import Tensors, not_finite

PLACES = {"dir", "workers"}  # keys of the data that change no number


def optimizer_tensors(optimizer: torch.optim.Optimizer, model: nn.Module) -> Tensors:
    """The state of an optimiser by name: ``{what}.{parameter}``."""
    names: dict[Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
    return {
        f"{what}.{names[parameter]}": value
        for parameter, state in optimizer.state.items()
        for what, value in state.items()
        if isinstance(value, Tensor)
    }


def load_optimizer(optimizer: torch.optim.Optimizer, model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Put back what ``optimizer_tensors`` took, in the memory format of each parameter."""
    parameters = dict(model.named_parameters())
    for key, value in tensors.items():
        what, name = key.split(".", 1)
        parameter = parameters[name]
        if value.shape == parameter.shape:
            own = torch.empty_like(parameter, dtype=value.dtype)
        else:  # a count of steps, which fused optimisers keep beside the parameter
            own = torch.empty_like(value, device=parameter.device if optimizer.defaults["fused"] else None)
        optimizer.state[parameter][what] = own.copy_(value)


def check_same_run(saved: Mapping[str, Any], config: RunConfig, path: Path) -> None:
    """Refuse to go on with another configuration than the checkpoint's; where the data lie may change.

    Raises:
        CheckpointError: names the first key that differs.
    """
    now = config.model_dump(mode="json")
    before = {
        **saved,
        "data": {**saved["data"], **{key: now["data"].get(key) for key in PLACES & saved["data"].keys()}},
    }
    for key, old, new in _differences(_with_defaults(before), now):
        raise CheckpointError(
            f"{path} was written with {key} = {old!r} and config.yaml now says {new!r}: put it back, or start a new run"
        )


def check_finite(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Refuse to go on from a checkpoint that holds NaN or infinity: no step would ever take them back.

    Raises:
        CheckpointError: names the first tensor.
    """
    if names := not_finite(tensors):
        raise CheckpointError(
            f"{path} holds values that are not finite, in {names}, and training cannot go on from there: "
            "start a new run"
        )


def _with_defaults(saved: Mapping[str, Any]) -> Mapping[str, Any]:
    """With the keys that have come into being since, which then had their defaults; as it is where a key has gone."""
    try:
        return RunConfig.model_validate_json(json.dumps(saved)).model_dump(mode="json")
    except ValidationError:
        return saved


def _differences(before: Any, now: Any, key: str = "") -> Iterator[tuple[str, Any, Any]]:
    if isinstance(before, dict) and isinstance(now, dict):
        for name in before.keys() | now.keys():
            yield from _differences(before.get(name), now.get(name), f"{key}.{name}" if key else name)
    elif before != now:
        yield key, before, now

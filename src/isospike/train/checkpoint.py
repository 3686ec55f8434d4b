"""Checkpoints of a run: weights, optimiser and configuration by name, in one file each."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, NonNegativeInt, ValidationError
from torch import Tensor, nn

from isospike.config import RunConfig
from isospike.errors import CheckpointError
from isospike.text import brief
from isospike.train.state import RunState
from isospike.weights import Tensors, load_tensors, not_finite, under

PLACES = {"dir", "workers"}  # keys of the data that change no number


class _SavedConfig(BaseModel):
    data: dict[str, Any]


class _Meta(BaseModel):
    """What stands beside the tensors of a run; more keys may follow."""

    config: _SavedConfig
    state: RunState
    averaged: NonNegativeInt = 0


def read_checkpoint(path: Path) -> tuple[Tensors, dict[str, Any]]:
    """Tensors and description of a checkpoint of a run, each of the kind that resuming needs.

    Raises:
        CheckpointError: it is damaged, or holds another kind of value somewhere; names the place.
    """
    tensors, meta = load_tensors(path)
    try:
        _Meta.model_validate_json(json.dumps(meta), strict=True)
        RunState.from_dict(meta["state"])
    except ValidationError as error:
        first = error.errors()[0]
        place = brief(".".join(map(str, first["loc"])))
        raise CheckpointError(f"{path} is no checkpoint of a run: {place}: {first['msg'].lower()}") from error
    except TypeError as error:
        raise CheckpointError(f"{path} is no checkpoint of this version: its state has other keys ({error})") from error
    _check_optimizer(tensors, path)
    return tensors, meta


def _check_optimizer(tensors: Tensors, path: Path) -> None:
    """Refuse a state that is not of the weights beside it, or not the same for all of them."""
    weights = under("model", tensors)
    kinds: dict[str, set[str]] = {}
    for key, value in under("optim", tensors).items():
        what, _, name = key.partition(".")
        kinds.setdefault(name, set()).add(what)
        if name not in weights or value.shape not in (weights[name].shape, ()) or not value.is_floating_point():
            raise CheckpointError(f"{path} holds '{brief(key)}' of the optimiser, which fits no weight beside it")
    if kinds and any(kind != next(iter(kinds.values())) for kind in kinds.values()):
        raise CheckpointError(f"{path} holds less of the optimiser for some weights than for others")


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

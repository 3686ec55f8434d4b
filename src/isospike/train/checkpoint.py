"""Checkpoints of a run: weights, optimiser and configuration by name, in one file each."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, NonNegativeInt, PositiveInt, ValidationError
from torch import Tensor, nn

from isospike.config import RunConfig
from isospike.errors import CheckpointError
from isospike.finite import not_finite
from isospike.text import brief
from isospike.train.averaging import MovingAverage
from isospike.train.state import RunState
from isospike.weights import Tensors, load_tensors, load_weights, under

PLACES = {"dir", "workers", "cache"}  # keys of the data that change no number


class _SavedTrain(BaseModel):
    epochs: PositiveInt


class _SavedConfig(BaseModel):
    data: dict[str, Any]
    train: _SavedTrain


class _Meta(BaseModel):
    """What stands beside the tensors of a run; more keys may follow."""

    config: _SavedConfig
    state: RunState
    averaged: NonNegativeInt = 0
    processes: PositiveInt | None = None


def read_checkpoint(path: Path) -> tuple[Tensors, dict[str, Any]]:
    """Read tensors and description of a checkpoint of a run, each of the kind that resuming needs.

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


def run_tensors(model: nn.Module, average: MovingAverage | None, optimizer: torch.optim.Optimizer | None) -> Tensors:
    """Return all tensors of a run by name: ``model.``, ``ema.`` where it averages, ``optim.`` where it is to go on."""
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    if average:
        tensors |= {f"ema.{name}": tensor for name, tensor in average.module.state_dict().items()}
    if optimizer:
        tensors |= {f"optim.{name}": tensor for name, tensor in optimizer_tensors(optimizer, model).items()}
    return tensors


def load_run(
    tensors: Mapping[str, Tensor],
    model: nn.Module,
    average: MovingAverage | None,
    optimizer: torch.optim.Optimizer,
    origin: str,
) -> None:
    """Put back what ``run_tensors`` took.

    Raises:
        CheckpointError: the weights are another model's; says so of ``origin``.
    """
    load_weights(model, under("model", tensors), origin)
    load_optimizer(optimizer, model, under("optim", tensors))
    if average:
        load_weights(average.module, under("ema", tensors), origin)


def optimizer_tensors(optimizer: torch.optim.Optimizer, model: nn.Module) -> Tensors:
    """Return the state of an optimiser by name: ``{what}.{parameter}``."""
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
            own = torch.empty_like(value, device=parameter.device if optimizer.defaults.get("fused") else None)
        optimizer.state[parameter][what] = own.copy_(value)


def check_same_run(saved: Mapping[str, Any], config: RunConfig, path: Path) -> None:
    """Refuse to go on with another configuration than the checkpoint's; where the data lie may change, and the epochs.

    Raises:
        CheckpointError: names the first key that differs.
    """
    now = config.model_dump(mode="json")
    before = {
        **saved,
        "data": _placed(saved["data"], now["data"]),
        "train": {**saved["train"], "epochs": config.train.epochs},
    }
    for key, old, new in _differences(_with_defaults(before), now):
        raise CheckpointError(
            f"{path} was written with {brief(key)} = {brief(repr(old))} and config.yaml now says {brief(repr(new))}: "
            "put it back, or start a new run"
        )


def _placed(saved: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """Return the data of a configuration, and the images that they are made of, with the places of another."""
    placed = {**saved, **{key: now.get(key) for key in PLACES & saved.keys()}}
    if isinstance(saved.get("images"), dict) and isinstance(now.get("images"), dict):
        placed["images"] = _placed(saved["images"], now["images"])
    return placed


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


def check_same_processes(before: int, now: int, config: RunConfig, path: Path) -> None:
    """Refuse to go on in another number of processes, which would take steps of another size, and fewer or more.

    Raises:
        CheckpointError: says how many there were.
    """
    if before != now:
        batch = config.train.batch_size
        raise CheckpointError(
            f"the steps of {path} take {before} x {batch} images (processes x train.batch_size), and would now take "
            f"{now} x {batch}: go on in {before} (torchrun --nproc_per_node={before}), or start a new run"
        )


def changed_epochs(saved: Mapping[str, Any], config: RunConfig, state: RunState, steps_per_epoch: int) -> str:
    """Say what other epochs than the checkpoint's do to the learning rate; "" where they are the same.

    Raises:
        CheckpointError: the run has done as many already.
    """
    before, now = saved["train"]["epochs"], config.train.epochs
    if now == before:
        return ""
    if now <= state.epoch:
        raise CheckpointError(f"the run has done {state.epoch} epochs, so train.epochs must be more, got {now}")
    old, new = (
        config.schedule.learning_rate(config.optim.lr, state.step, steps_per_epoch, epochs) for epochs in (before, now)
    )
    return (
        f"train.epochs was {before} and is {now}: the learning rate follows the schedule of {now} epochs from here on, "
        f"and is {new:.3g} at the next step (of {before}: {old:.3g})"
    )


def _with_defaults(saved: Mapping[str, Any]) -> Mapping[str, Any]:
    """Add the keys that have come into being since, with their defaults; leave it where a key has gone."""
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

"""Checkpoints: one safetensors file each, written whole or not at all, and checked when read."""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from isospike.config import RunConfig
from isospike.errors import CheckpointError, RunFailed

Tensors = dict[str, Tensor]
PLACES = {"dir", "workers"}  # keys of the data that change no number


def save_tensors(path: Path, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
    """Write tensors and a JSON-able ``meta`` to one file, with a hash over both.

    Raises:
        RunFailed: the disk does not take it; what was there before is untouched.
    """
    dense = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    text = json.dumps(meta)
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(dense, part, metadata={"meta": text, "sha256": _digest(dense, text)})
        part.chmod(0o666 & ~_umask())  # safetensors would leave it to its owner alone
        with part.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(part, path)
    except (OSError, SafetensorError) as error:
        part.unlink(missing_ok=True)
        kept = "; the one before is intact" if path.exists() else ""
        raise RunFailed(f"cannot write {path}: {error}{kept}") from error


def load_tensors(path: Path) -> tuple[Tensors, dict[str, Any]]:
    """Tensors and ``meta`` of a file that ``save_tensors`` wrote.

    Raises:
        CheckpointError: no such file, not of this kind, or its content does not match its hash.
    """
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist")
    try:
        with safe_open(path, framework="pt") as file:
            found = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a mapping
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is damaged or not a safetensors file: {error}") from error
    if "meta" not in found or "sha256" not in found:
        raise CheckpointError(f"{path} is a safetensors file, but not one that isospike wrote")
    if _digest(tensors, found["meta"]) != found["sha256"]:
        raise CheckpointError(f"{path} is damaged: its content does not match its hash")
    return tensors, json.loads(found["meta"])


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _digest(tensors: Mapping[str, Tensor], meta: str) -> str:
    digest = hashlib.sha256(meta.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def under(prefix: str, tensors: Mapping[str, Tensor]) -> Tensors:
    """The tensors whose names start with ``prefix.``, without it."""
    return {name.removeprefix(prefix + "."): t for name, t in tensors.items() if name.startswith(prefix + ".")}


def load_weights(model: nn.Module, tensors: Mapping[str, Tensor], origin: str) -> None:
    """Copy weights into ``model``.

    Raises:
        CheckpointError: a name or a shape differs; names the first.
    """
    own = model.state_dict()
    for name in sorted(own.keys() ^ tensors.keys()):
        where = "is not in" if name in own else "is only in"
        raise CheckpointError(f"the weights do not fit the model: '{name}' {where} {origin}")
    for name, tensor in tensors.items():
        if tensor.shape != own[name].shape:
            raise CheckpointError(
                f"the weights do not fit the model: '{name}' is {list(own[name].shape)} in the model and "
                f"{list(tensor.shape)} in {origin}"
            )
    model.load_state_dict(tensors)


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
        own = torch.empty_like(parameter, dtype=value.dtype) if value.shape == parameter.shape else value.clone()
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
    for key, old, new in _differences(before, now):
        raise CheckpointError(
            f"{path} was written with {key} = {old!r} and config.yaml now says {new!r}: put it back, or start a new run"
        )


def _differences(before: Any, now: Any, key: str = "") -> Iterator[tuple[str, Any, Any]]:
    if isinstance(before, dict) and isinstance(now, dict):
        for name in before.keys() | now.keys():
            yield from _differences(before.get(name), now.get(name), f"{key}.{name}" if key else name)
    elif before != now:
        yield key, before, now

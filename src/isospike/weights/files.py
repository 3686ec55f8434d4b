"""Tensors in files: safetensors, written whole or not at all, and checked when read."""

import hashlib
import json
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from isospike.errors import CheckpointError, IsospikeWarning
from isospike.finite import not_finite
from isospike.text import brief
from isospike.writing import atomic_write

Tensors = dict[str, Tensor]
REAL = (torch.float32, torch.float64, torch.float16, torch.bfloat16)  # each is read where a model has another of them


def save_tensors(path: Path, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
    """Write tensors and a JSON-able ``meta`` to one file, with a hash over both; the same content gives the same bytes.

    Raises:
        RunFailed: the disk does not take it; what was there before is untouched.
    """
    dense = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    text = json.dumps(meta, sort_keys=True)
    with atomic_write(path) as part:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.touch()
        mode = part.stat().st_mode
        try:
            save_file(dense, part, metadata={"meta": text, "sha256": _digest(dense, text)})
        except SafetensorError as error:
            raise OSError(str(error)) from error
        part.chmod(mode)  # safetensors would leave it to its owner alone
        with part.open("r+b") as file:
            _sort_metadata(file)
            file.flush()
            os.fsync(file.fileno())


def load_tensors(path: Path) -> tuple[Tensors, dict[str, Any]]:
    """Load tensors and ``meta`` of a file that ``save_tensors`` wrote.

    Raises:
        CheckpointError: no such file, not of this kind, its content does not match its hash, or ``meta`` is no mapping.
    """
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist")
    try:
        with safe_open(path, framework="pt") as file:
            found = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a mapping
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is damaged or not a safetensors file: {brief(str(error), 200)}") from error
    if "meta" not in found or "sha256" not in found:
        raise CheckpointError(f"{path} is a safetensors file, but not one that isospike wrote")
    if _digest(tensors, found["meta"]) != found["sha256"]:
        raise CheckpointError(f"{path} is damaged: its content does not match its hash")
    try:
        meta = json.loads(found["meta"])
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} holds a description that is no JSON: {brief(str(error))}") from error
    if not isinstance(meta, dict):
        raise CheckpointError(f"{path} holds a description that is a {type(meta).__name__}, not keys and values")
    return tensors, meta


def under(prefix: str, tensors: Mapping[str, Tensor]) -> Tensors:
    """Return the tensors whose names start with ``prefix.``, without it."""
    return {name.removeprefix(prefix + "."): t for name, t in tensors.items() if name.startswith(prefix + ".")}


def _sort_metadata(file: BinaryIO) -> None:
    """Put the keys of the metadata in order: safetensors writes them in another one each time."""
    length = int.from_bytes(file.read(8), "little")
    header = json.loads(file.read(length))
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":"))
    file.seek(8)
    file.write(text.encode().ljust(length))


def _digest(tensors: Mapping[str, Tensor], meta: str) -> str:
    digest = hashlib.sha256(meta.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def load_weights(model: nn.Module, tensors: Mapping[str, Tensor], origin: str) -> None:
    """Copy weights into ``model``; a warning says where they are not finite.

    Raises:
        CheckpointError: they do not fit; see ``check_fit``.
    """
    check_fit(model, tensors, origin)
    model.load_state_dict(tensors)
    if names := not_finite(tensors):
        warnings.warn(
            f"{origin} holds values that are not finite, in {names}: nothing that this network says can be trusted",
            IsospikeWarning,
            stacklevel=2,
        )


def check_fit(model: nn.Module, tensors: Mapping[str, Tensor], origin: str) -> None:
    """Refuse weights that are not those of ``model``, which may lie on the meta device.

    Raises:
        CheckpointError: a name, a shape or a kind of number differs; names the first.
    """
    own = model.state_dict()
    for name in sorted(own.keys() ^ tensors.keys()):
        where = "is not in" if name in own else "is only in"
        raise CheckpointError(f"the weights do not fit the model: '{brief(name)}' {where} {origin}")
    for name, tensor in tensors.items():
        if tensor.shape != own[name].shape:
            raise CheckpointError(
                f"the weights do not fit the model: '{name}' is {list(own[name].shape)} in the model and "
                f"{list(tensor.shape)} in {origin}"
            )
        if tensor.dtype != own[name].dtype and not (tensor.dtype in REAL and own[name].dtype in REAL):
            raise CheckpointError(
                f"the weights do not fit the model: '{name}' is of {own[name].dtype} in the model and of "
                f"{tensor.dtype} in {origin}"
            )

"""State dicts of other code bases: how they are read, and which of our names theirs stand for."""

import argparse
import pickle
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from isospike.errors import CheckpointError
from isospike.layers import BatchNorm
from isospike.text import brief
from isospike.weights.files import Tensors

WRAPPERS = ("state_dict", "model")  # keys under which training scripts keep the weights, beside their optimiser
# What torch.load raises for files that are damaged or something else altogether, beyond UnpicklingError.
BROKEN = (
    OSError, EOFError, RuntimeError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError,
    AssertionError, MemoryError, struct.error, SafetensorError,
)  # fmt: skip


def read_state_dict(path: Path | str) -> Tensors:
    """Read the state dict in a file of ``torch.save`` or a ``.safetensors`` file, cleaned as by ``clean``.

    Nothing foreign is unpickled: tensors, plain values and the bare ``argparse.Namespace`` that training scripts save
    beside them are all that is read.

    Raises:
        CheckpointError: no such file, damaged, objects in it, or no state dict.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist")
    try:
        content = load_file(path) if path.suffix == ".safetensors" else _load(path)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL ([\w.]{1,80})", str(error))
        what = f"holds a {found[1]}" if found else "is damaged or holds more than tensors"
        raise CheckpointError(
            f"{path} {what}, and nothing foreign is unpickled: save the state dict alone where you trust the file"
        ) from error
    except BROKEN as error:
        reason = brief((str(error).strip() or type(error).__name__).splitlines()[0], 200)
        raise CheckpointError(f"{path} is damaged or not a file of weights: {reason}") from error
    return clean(content, str(path))


def _load(path: Path) -> Any:
    with torch.serialization.safe_globals([argparse.Namespace]):  # a holder of attributes; it runs nothing
        return torch.load(path, map_location="cpu", weights_only=True)


def clean(content: Any, origin: str) -> Tensors:
    """Take off a state dict what training left around it.

    That is a dictionary with the state dict under "state_dict" or "model", the prefix ``module.`` of data-parallel
    training, and the counters ``num_batches_tracked``, which our norms do not have.

    Raises:
        CheckpointError: there is no state dict, or one of its tensors is not made of plain real numbers.
    """
    for key in WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    named = isinstance(content, Mapping) and all(isinstance(name, str) for name in content)
    if not named or not all(isinstance(tensor, Tensor) for tensor in content.values()):
        raise _no_state_dict(origin)
    tensors = {name: tensor for name, tensor in content.items() if not name.endswith(".num_batches_tracked")}
    if not tensors:
        raise _no_state_dict(origin)
    for name, tensor in tensors.items():
        if tensor.layout != torch.strided or tensor.is_meta or tensor.is_quantized or tensor.is_complex():
            kind = f"{tensor.layout}, {tensor.dtype}, on {tensor.device.type}"
            raise CheckpointError(f"'{brief(name)}' in {origin} is not a tensor of plain numbers in memory, but {kind}")
    while all(name.startswith("module.") for name in tensors):
        tensors = {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
    return tensors


def _no_state_dict(origin: str) -> CheckpointError:
    keys = " or ".join(f"'{key}'" for key in WRAPPERS)
    return CheckpointError(f"{origin} holds no state dict (tensors by name), neither alone nor under {keys}")


@dataclass(frozen=True)
class KeyMap:
    """The names of their modules, and of ours.

    Args:
        modules: Our path of each of theirs. ``{stage}``, ``{unit}`` and ``{n}`` stand for numbers, the same in both.
        first_stage: The number that they give to our stage 0.
    """

    modules: Mapping[str, str]
    first_stage: int

    def rename(self, name: str) -> str | None:
        """Return our name of a tensor; None where the table has no such module."""
        path, _, leaf = name.rpartition(".")
        for theirs, ours in self.modules.items():
            match = _pattern(theirs).fullmatch(path)
            if match:
                numbers = {what: int(number) for what, number in match.groupdict().items()}
                if "stage" in numbers:
                    numbers["stage"] -= self.first_stage
                return f"{ours.format(**numbers)}.{leaf}"
        return None

    def rename_all(self, tensors: Mapping[str, Tensor], origin: str, code: str) -> Tensors:
        """Rename every tensor as ours.

        Raises:
            CheckpointError: a name that the table does not have, or two that mean the same.
        """
        ours: Tensors = {}
        for name, tensor in tensors.items():
            own = self.rename(name)
            if own is None or own in ours:
                raise CheckpointError(f"'{brief(name)}' in {origin} is no name that {code} gives to a weight")
            ours[own] = tensor
        return ours


@cache
def _pattern(path: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"\\{(\w+)\\}", r"(?P<\1>[0-9]{1,4})", re.escape(path)))


def fixed_affines(model: nn.Module) -> Tensors:
    """Return the weights and biases of norms that do not learn them: other code saves none for such a norm."""
    return {
        f"{path}.{name}": values
        for path, module in model.named_modules()
        if isinstance(module, BatchNorm)
        for name, values in module.named_buffers()
        if name in ("weight", "bias")
    }


def without_scale(model: nn.Module, tensors: Mapping[str, Tensor]) -> Tensors:
    """Return the same, the weight of every norm divided by the constant factor that our norm multiplies it with."""
    changed = dict(tensors)
    for path, module in model.named_modules():
        name = f"{path}.weight"
        if isinstance(module, BatchNorm) and module.scale != 1 and name in changed:
            changed[name] = changed[name] / module.scale
    return changed

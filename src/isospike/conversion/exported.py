"""An ANN as a graph of ATen's operators, by ``torch.export``: for what ``torch.fx`` cannot trace."""

import re
from pathlib import Path

import torch
from torch import Tensor, fx, nn

from isospike.errors import ConfigError

TORCH = str(Path(torch.__file__).parent)


def export(module: nn.Module, example: Tensor, before: Exception) -> fx.Graph:
    """Return the operators that ``module`` runs on ``example``, with the ``meta`` of ``trace``.

    Args:
        module: In eval mode.
        example: Images ``[B, C, H, W]``.
        before: Why it could not be traced.

    Raises:
        ConfigError: it cannot be exported either.
    """
    try:
        program = torch.export.export(module, (example,), strict=False)
    except Exception as error:  # of code that is not ours, which was given no tensors
        raise ConfigError(
            f"what this {type(module).__name__} does cannot be written down as a graph. torch.fx: {_brief(before)}; "
            f"torch.export: {_brief(error)}. A forward may depend on shapes, and not on the numbers in a map"
        ) from error
    signature = program.graph_signature
    held = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    lifted = signature.inputs_to_lifted_tensor_constants
    for node in program.graph.nodes:
        value = node.meta.get("val")
        value = value[0] if isinstance(value, tuple) else value  # what is asked for, and where it was found
        node.meta["shape"] = tuple(value.shape) if isinstance(value, Tensor) else None
        node.meta["source"] = _source(node.meta.get("stack_trace") or "")
        if node.name in held:
            node.meta["tensor"] = program.state_dict.get(held[node.name], program.constants.get(held[node.name]))
        elif node.name in lifted:
            node.meta["tensor"] = program.constants[lifted[node.name]]
    return program.graph


def _source(trace: str) -> tuple[str, int] | None:
    """Return the file and the line of the last call in a stack trace that is not in PyTorch."""
    calls = re.findall(r'File "([^"]+)", line (\d+)', trace)
    return next(((file, int(line)) for file, line in reversed(calls) if not file.startswith(TORCH)), None)


def _brief(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__).rstrip(".")

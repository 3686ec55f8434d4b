"""The reference: every operation in eager PyTorch. Tests hold training and inference to it."""

from typing import Any

from torch import nn

from isospike.graph.program import Affine, Between, Call, Complement, JoinName, Operation, Value
from isospike.layers import Steps
from isospike.residual import Join, Scale, Weigh


def run_eager(operation: Operation, maps: dict[Value, Any], steps: Steps) -> None:
    """Write what ``operation`` puts out into ``maps``; a map is a tensor ``[T or 1, B, ...]`` or a symbol of one.

    Convolutions with an affine or another map behind them are the business of inference, and not run here.
    """
    if isinstance(operation, Between):
        maps.update(_between(operation, maps, steps))
    elif isinstance(operation, Call):
        maps[operation.out] = operation.run(maps, steps)
    else:
        maps[operation.out] = steps.through(operation.module, maps[operation.x])


def apply_affine(affine: Affine | None, x: Any, steps: Steps) -> Any:
    """Apply an affine to ``x [T or 1, B, C, H, W]``."""
    if affine is None:
        return x
    if isinstance(affine, Complement):
        return 1 - x
    if isinstance(affine, Scale | Weigh):
        return steps.run(affine, x)
    return steps.through(affine, x) if isinstance(affine, nn.Module) else x * affine


def join(how: JoinName | Join | None, s: Any, z: Any) -> Any:
    """Join the spikes ``s`` of a branch with ``z``."""
    if isinstance(how, Join):
        return how(branch=s, skip=z)
    if how == "add":
        return s + z
    return (s if how == "and" else 1 - s) * z


def _between(op: Between, maps: dict[Value, Any], steps: Steps) -> dict[Value, Any]:
    total = apply_affine(op.x_affine, maps[op.x], steps)
    if op.y is not None:
        total = total + apply_affine(op.y_affine, maps[op.y], steps)
    out = apply_affine(op.affine, total, steps)
    if op.neuron is not None:
        out = steps.through(op.neuron, out)
    if op.z is not None:
        out = join(op.join, out, maps[op.z])
    return {op.out: out} if op.total is None else {op.out: out, op.total: total}

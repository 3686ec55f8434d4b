"""A converted network whose maps tell changes: its image is told as changes, and its biases once."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from isospike.errors import ConfigError
from isospike.graph import Call, Conv, Operation, Program, Value, modules_of
from isospike.layers import BiasOnce, Changes, Conv2d, DifferentialReadout, SpikingMaxPool
from isospike.models import ProgramNet
from isospike.residual import REAL

MAPS = ("x", "y", "z", "out")  # of an operation


@torch.no_grad()
def told_as_changes(net: ProgramNet) -> ProgramNet:
    """Return the network of the same layers for a stream of changes, behind which logits are made of it again.

    Linear layers take changes as they take maps; a bias is a change at the first step.

    Args:
        net: As lowered, with neurons that read and put out changes.

    Raises:
        ConfigError: there is a max-pool, which is not linear.
    """
    program = net.program
    names = {module: name for name, module in net.named_modules()}
    modules = {names[module]: module for module in modules_of(program)}
    count = 1 + max(value.number for op in program.operations for value in (op.out, *op.reads()))
    told: dict[Value, Value] = {}
    operations: list[Operation] = []

    def call(x: Value, module: nn.Module, name: str) -> Value:
        nonlocal count
        out, count = Value(count, x.channels, REAL), count + 1
        modules[name] = module
        operations.append(Call(x, out, module))
        return out

    told[program.input] = call(program.input, Changes(), "changes")
    for op in program.operations:
        if isinstance(op, Call) and isinstance(op.module, SpikingMaxPool):
            raise ConfigError(
                f"'{names[op.module]}' is a max-pool, which changes do not go through as they are: train the ANN with "
                "average pools, or take method 'multi_threshold'"
            )
        operations.append(_renamed(op, told))
        layer = op.module if isinstance(op, Conv | Call) else None
        if isinstance(layer, Conv2d | nn.Linear) and layer.bias is not None:
            once = BiasOnce(op.out.channels).to(layer.bias)
            once.bias.copy_(layer.bias)
            layer.bias = None
            told[op.out] = call(op.out, once, f"{names[layer]}_bias")
    (result,) = program.results
    result = call(told.get(result, result), DifferentialReadout(), "readout")
    renumbered = _in_order(Program(tuple(operations), program.input, (result,)))
    made = ProgramNet(renumbered, modules, T=net.T, least_size=net.least_size, units=net.units)
    made.inputs = net.inputs
    return made.eval()


def _in_order(program: Program) -> Program:
    """Number the maps of a program in the order in which they are written."""
    written = [program.input, *(op.out for op in program.operations)]
    new = {value: replace(value, number=number) for number, value in enumerate(written)}
    operations = tuple(_renamed(op, new) for op in program.operations)
    return Program(operations, program.input, (new[program.results[0]],))


def _renamed(op: Operation, new: Mapping[Value, Value]) -> Operation:
    """Put an operation on other maps; those that ``new`` does not have stay."""
    maps: dict[str, Any] = {name: value for name in MAPS if (value := getattr(op, name, None)) is not None}
    return replace(op, **{name: new.get(value, value) for name, value in maps.items()})

"""Whether a program that somebody wrote can be run: in order, of parts that belong where they stand, and that fit."""

from inspect import signature
from typing import get_args

from torch import nn

from isospike.errors import ConfigError
from isospike.graph.program import Between, Call, Complement, Conv, JoinName, Operation, Program
from isospike.graph.recorder import is_norm, out_channels
from isospike.neurons import Neuron
from isospike.residual import Scale
from isospike.text import brief

READ = ("in_channels", "in_features", "num_features")  # what layers call the number of channels that they read


def check_program(program: Program) -> None:
    """Refuse what would fail whatever it is given; heights and widths are not looked at.

    Raises:
        ConfigError: a map is read before it is written or is written twice, a part stands where another belongs, or
            channels differ; names the map.
    """
    _check_order(program)
    for op in program.operations:
        if isinstance(op, Between):
            _check_between(op)
        else:
            _check_layer(op)


def _check_order(program: Program) -> None:
    written = {program.input}
    for op in program.operations:
        for value in op.reads():
            if value not in written:
                raise ConfigError(f"a program reads map {value.number} before it is written")
        if op.out in written:
            raise ConfigError(f"a program writes map {op.out.number} twice")
        written.add(op.out)
    for value in program.results:
        if value not in written:
            raise ConfigError(f"a program never writes map {value.number}, which is a result")


def _check_between(op: Between) -> None:
    for affine in (op.x_affine, op.y_affine, op.affine):
        known = isinstance(affine, Scale) or (isinstance(affine, nn.Module) and is_norm(affine))
        if not (affine is None or known or isinstance(affine, float | Complement)):
            raise _misplaced(op, affine, "a norm or a factor")
        _check_read(op, affine)
    if not (op.neuron is None or isinstance(op.neuron, Neuron)):
        raise _misplaced(op, op.neuron, "a neuron")
    if (op.join is None) != (op.z is None) or op.join not in (None, *get_args(JoinName)):
        raise _misplaced(op, op.join, f"a join of two maps, one of: {', '.join(get_args(JoinName))}")
    for value in (*op.reads(), op.out):
        if value.channels != op.x.channels:
            raise ConfigError(
                f"map {op.out.number} of a program is made of maps of {op.x.channels} and of {value.channels} channels"
            )


def _check_layer(op: Conv | Call) -> None:
    if not isinstance(op.module, nn.Module):
        raise _misplaced(op, op.module, "a layer")
    if ("steps" in signature(op.module.forward).parameters) != (isinstance(op, Call) and op.timed is True):
        raise _misplaced(op, op.module, "a layer that is called in the other way")
    _check_read(op, op.module)
    if not isinstance(op.module, nn.Flatten) and op.out.channels != out_channels(op.module, op.x.channels):
        raise ConfigError(f"map {op.out.number} of a program has other channels than its layer puts out")


def _check_read(op: Operation, part: object) -> None:
    """Channels that a layer or a norm, or one of those inside it, says that it reads."""
    for module in part.modules() if isinstance(part, nn.Module) else ():
        for name in READ:
            if getattr(module, name, op.x.channels) != op.x.channels:
                raise ConfigError(
                    f"map {op.out.number} of a program is made of one of {op.x.channels} channels, by a "
                    f"{type(module).__name__} that reads {getattr(module, name)}"
                )


def _misplaced(op: Operation, part: object, place: str) -> ConfigError:
    found = f"a {type(part).__name__}" if isinstance(part, nn.Module) else repr(part)
    return ConfigError(f"map {op.out.number} of a program is made by {brief(found)} in the place of {place}")

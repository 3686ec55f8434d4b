"""Operations between convolutions as functions on maps: what compiled networks and eval have in common."""

from collections.abc import Callable, Hashable
from functools import partial
from typing import Any, NamedTuple

from torch import Tensor

from isospike import graph
from isospike.graph import Between, Value
from isospike.inference.numbers import firing_of, numbers_of
from isospike.ops import Firing
from isospike.ops.cpu.pointwise import CompiledPass, can_run
from isospike.ops.pointwise import Pointwise, Rectifier, Result, ScaleShift, Span, eager_pass
from isospike.residual import Join

States = dict[Any, Tensor]  # potentials
Maps = dict[Value, Tensor]
Run = Callable[[Maps, Span, States], None]


class Bound(NamedTuple):
    """An operation as a function on the maps.

    Attributes:
        run: The function.
        done: The maps that nothing reads after it.
        in_time: Whether time has begun there.
        by_library: Whether all that it does are calls of the compiled library, but for copies that it notes.
    """

    run: Run
    done: tuple[Value, ...]
    in_time: bool
    by_library: bool


def firing(op: Between) -> Firing | Rectifier | None:
    """Return the numbers of its neurons; None where nothing fires."""
    return None if op.neuron is None else firing_of(op.neuron)


def is_pass(op: graph.Operation) -> bool:
    """Return whether the library does it in one pass over memory."""
    if not isinstance(op, Between) or isinstance(op.join, Join):
        return False
    return can_run(Pointwise(firing=firing(op)), op.out.channels)


def between(
    op: Between,
    like: Tensor,
    *,
    compiled: bool,
    state: Hashable,
    integer: bool = False,
    bits: bool = False,
) -> Run:
    """Bind what stands between two convolutions.

    Args:
        op: The operation.
        like: A tensor of the dtype and on the device that its numbers get.
        compiled: Whether the library may run it.
        state: The name of its neurons' potentials.
        integer: Whether it puts out uint8.
        bits: Whether it puts out bits.
    """

    def here(affine: graph.Affine | None) -> ScaleShift | None:
        return None if affine is None else ScaleShift(*(rows.to(like) for rows in numbers_of(affine)))

    x_affine, y_affine, affine = (here(affine) for affine in (op.x_affine, op.y_affine, op.affine))
    assert not isinstance(op.join, Join), "who binds it looks for these"
    spec = Pointwise(x_affine, y_affine, affine, firing(op), op.join, op.total is not None, integer or bits)
    once: Callable[..., Result] = partial(eager_pass, spec)
    if compiled and can_run(spec, op.out.channels):
        once = CompiledPass(spec, op.out.channels, bits=bits)
    x, y, z, out, total = op.x, op.y, op.z, op.out, op.total

    def run(maps: Maps, span: Span, states: States) -> None:
        y_map, z_map = None if y is None else _as_map(maps[y]), None if z is None else _as_map(maps[z])
        shape, v = maps[x].shape[1:], states.get(state)
        if v is not None and len(shape) == 1:
            v = v[..., None, None]
        result = once(span, _as_map(maps[x]), y_map, z_map, v)
        maps[out] = _as_features(result.out) if len(shape) == 1 else result.out
        if total is not None and result.sum is not None:
            maps[total] = _as_features(result.sum) if len(shape) == 1 else result.sum
        if span.stateful and spec.firing == "rectifier":
            states[state] = like.new_empty(0)  # it has no memory
        elif result.v is not None:
            states[state] = _as_features(result.v) if len(shape) == 1 else result.v

    return run


def _as_map(x: Tensor) -> Tensor:
    """View features ``[N, C]`` as maps of one pixel."""
    return x if x.dim() == 4 else x[:, :, None, None]


def _as_features(x: Tensor) -> Tensor:
    """View maps of one pixel ``[..., C, 1, 1]`` as features."""
    return x[..., 0, 0]

"""Layers that a program calls: those whose bits do not depend on the batch, and all others step by step."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from isospike.graph import Call, Conv, Operation, Value, apply_affine, is_untouched, run_eager, writes
from isospike.inference.layers import Maps, Run, States
from isospike.layers import GlobalPool, PaddedShortcut, Steps, is_exactly
from isospike.ops.conv2d import Convolution
from isospike.ops.cpu.dense import Windows, dense_conv, dense_weight, window_means
from isospike.ops.pointwise import Span

EXACT = (nn.MaxPool2d, PaddedShortcut)  # they round nothing, so all steps may go through at once
POINT = Convolution((1, 1), (0, 0), (1, 1), 1)
Layer = Callable[[Tensor], Tensor]


def is_ordered(call: Call) -> bool:
    """Return whether ``ordered`` can run it."""
    layer = call.module
    if call.timed or call.several is not None or not is_untouched(layer):
        return False
    if is_exactly(layer, nn.AvgPool2d):
        return _is_mean(layer)  # type: ignore[arg-type]
    return any(is_exactly(layer, kind) for kind in (GlobalPool, nn.Linear, *EXACT))


def reads_bits(call: Call) -> bool:
    """Return whether ``ordered`` takes spikes as bits."""
    return is_ordered(call) and isinstance(call.module, GlobalPool | nn.AvgPool2d)


def ordered(call: Call) -> Run:
    """Bind a layer, for which ``is_ordered`` says yes, to all steps and samples at once."""
    layer, x, out = _layer(call), call.x, call.out

    def run(maps: Maps, span: Span, states: States) -> None:
        maps[out] = layer(maps[x])

    return run


def step_by_step(op: Operation, results: frozenset[Value], in_time: bool) -> Run:
    """Bind an operation to what it is in eager PyTorch, one step after the other and all samples together.

    Args:
        op: The operation.
        results: Which of its outputs anybody reads.
        in_time: Whether time has begun there.
    """

    def run(maps: Maps, span: Span, states: States) -> None:
        steps = Steps(1, states)
        given = {value: maps[value].unflatten(0, (-1, span.B)) for value in op.reads()}
        found: dict[Value, list[Tensor]] = {value: [] for value in writes(op) if value in results}
        for t in range(span.T if in_time else max(map(len, given.values()))):
            steps.start = span.start + t
            here = {value: x[t : t + 1] if len(x) > 1 else x for value, x in given.items()}
            _run_eager(op, here, steps)
            for value, parts in found.items():
                parts.append(here[value])
        maps.update({value: torch.cat(parts).flatten(0, 1) for value, parts in found.items()})

    return run


def _run_eager(op: Operation, maps: Maps, steps: Steps) -> None:
    run_eager(op, maps, steps)
    if isinstance(op, Conv) and op.affine is not None:
        maps[op.out] = apply_affine(op.affine, maps[op.out], steps)


def _layer(call: Call) -> Layer:
    layer = call.module
    if isinstance(layer, nn.Linear):
        weight = dense_weight(layer.weight[:, :, None, None], layer.bias, POINT)
        return lambda x: dense_conv(x[:, :, None, None], weight)[:, :, 0, 0]
    if isinstance(layer, GlobalPool):
        return lambda x: window_means(x, call.x.channels, _whole(x))[:, :, 0, 0]
    if isinstance(layer, nn.AvgPool2d):
        return lambda x: window_means(x, call.x.channels, _windows(layer, x))
    return layer


def _is_mean(pool: nn.AvgPool2d) -> bool:
    """Whether every window is divided by what of it is inside the map."""
    return pool.divisor_override is None and (not pool.count_include_pad or _pair(pool.padding) == (0, 0))


def _whole(x: Tensor) -> Windows:
    size = (x.shape[2], x.shape[3])
    return Windows(size, size, (0, 0), (1, 1))


def _windows(pool: nn.AvgPool2d, x: Tensor) -> Windows:
    kernel, stride, padding = map(_pair, (pool.kernel_size, pool.stride, pool.padding))
    rows, columns = (
        _count(size, k, s, p, pool.ceil_mode)
        for size, k, s, p in zip(x.shape[2:], kernel, stride, padding, strict=True)
    )
    return Windows(kernel, stride, padding, (rows, columns))


def _count(size: int, kernel: int, stride: int, padding: int, ceil_mode: bool) -> int:
    """How many windows there are; none begins behind the map."""
    room = size + 2 * padding - kernel
    count = (-(-room // stride) if ceil_mode else room // stride) + 1
    return count - 1 if ceil_mode and (count - 1) * stride >= size + padding else count


def _pair(value: int | tuple[int, ...]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])

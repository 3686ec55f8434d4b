"""Norm, skip and recurrence on a GPU as one: ``kernels/norm_fire.py`` launched, its gradients handed to autograd."""

from typing import Any

import torch
from torch import Tensor

from isospike.ops.fired import fired, note_fired
from isospike.ops.firing import Firing, NormFired
from isospike.ops.gpu import leaky_fire as fire
from isospike.ops.gpu.leaky_fire import OPTIONS, kernels, mask_width, room_for_bits, room_for_masks, rule_constants
from isospike.ops.memory import channels_last
from isospike.ops.rule import Rule

TILE = 1024  # pixels times channels that a program works on at a time
PARTS = 512  # programs that share the sums over pixels, a power of two
NOTHING_FIRES = {
    "V_RESET": 0.0, "SUBTRACT": False, "STRICT": False, "INTEGER": 0, "THRESHOLDS": (0.0,), "LEVELS": 0,
}  # fmt: skip


def refusal(x: Tensor, skip: Tensor | None, added: Tensor | None, firing: Firing | None) -> str | None:
    """Why this cannot be run here, as the end of a sentence; None where it can."""
    given = [tensor for tensor in (x, skip, added) if tensor is not None]
    reason = next((reason for tensor in given if (reason := fire.refused_current(tensor))), None)
    if reason is not None or firing is None:
        return reason
    if len(x) * fire.potentials(firing.rule) > fire.MAX_STATES:
        return f"it has room for {fire.MAX_STATES} steps times levels in one pass"
    return fire.refused_rule(firing.rule)


def norm_fire(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    root_eps: float = 0.0,
    *,
    skip: Tensor | None,
    firing: Firing | None,
    added: Tensor | None,
    keep: bool,
) -> NormFired:
    """See ``isospike.ops.norm_fire``; here ``refusal`` has said that it can. A second derivative is refused.

    Half precision is for what is read and written; the current is rounded once, to the dtype in which it would be
    handed out, whether it is or not. Statistics, potentials and sums are float32 or more.
    """
    decay, gain, rule = (1.0, 1.0, None) if firing is None else firing
    records = torch.is_grad_enabled()
    *done, bits = _NormFire.apply(x, weight, bias, skip, added, decay, gain, rule, (eps, root_eps), keep, records)
    fired_before = None if added is None else fired(added)
    if rule is not None and added is None:
        note_fired(done[1], rule.levels, bits)
    elif rule is not None and fired_before is not None:
        note_fired(done[1], rule.levels + fired_before.levels)
    return NormFired(*done)


class _NormFire(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        skip: Tensor | None,
        added: Tensor | None,
        decay: float | Tensor,
        gain: float | Tensor,
        rule: Rule | None,
        eps: tuple[float, float],
        keep: bool,
        records: bool,
    ) -> tuple[Tensor | None, ...]:
        ctx.set_materialize_grads(False)
        x = channels_last(x)
        skip, added = (None if tensor is None else channels_last(tensor) for tensor in (skip, added))
        ctx.skip_shape, ctx.skip_dtype = (None, None) if skip is None else (skip.shape, skip.dtype)
        ctx.added_shape, ctx.added_dtype = (None, None) if added is None else (added.shape, added.dtype)
        ctx.dtype = x.dtype if skip is None else torch.promote_types(x.dtype, skip.dtype)
        mean, var, rstd, stretch, a, b = _affine(x, weight, bias, eps)
        learned = isinstance(decay, Tensor), isinstance(gain, Tensor)
        masks = None
        if rule is not None and skip is not None and records and not any(learned):
            masks = room_for_masks(x, rule)
        wants_u = rule is not None and skip is not None and masks is None
        u = torch.empty_like(x, dtype=ctx.dtype) if keep or wants_u else None
        s = bits = None
        if rule is not None:
            s_dtype = ctx.dtype if added is None else torch.promote_types(ctx.dtype, added.dtype)
            s = torch.empty_like(x, dtype=s_dtype)
            bits = room_for_bits(s, rule) if records and added is None and x.shape[2] % 8 == 0 else None
        width = None if rule is None else mask_width(rule, masks)
        constants = NOTHING_FIRES if rule is None else rule_constants(rule)[0]
        T, N, C, tiles = _sizes(x)
        with torch.cuda.device_of(x):
            kernels("norm_fire").forward_kernel[_grid(N // C, C)](
                x, a, b, skip, added, u, s, bits, masks, decay, gain, N // C, C, N, _step(skip), _step(added),
                _dtype(ctx.dtype), *learned, T=T, **constants, PARAMETER=width, **tiles, **OPTIONS,
            )  # fmt: skip
        ctx.rule, ctx.numbers = rule, tuple(None if isinstance(c, Tensor) else c for c in (decay, gain))
        kept = u if wants_u else None, masks
        ctx.save_for_backward(
            x, a, b, mean, rstd, stretch, *kept, *(c if isinstance(c, Tensor) else None for c in (decay, gain))
        )
        ctx.mark_non_differentiable(mean, var, *([] if bits is None else [bits]))
        return (u if keep else None), s, mean, var, bits

    @staticmethod
    def backward(ctx: Any, du: Tensor | None, ds: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise fire.no_second_derivative()
        x, a, b, mean, rstd, stretch, u, masks, *learned = ctx.saved_tensors
        du, ds = (None if d is None else channels_last(d) for d in (du, ds))
        with torch.cuda.device_of(x):
            if ctx.rule is None:
                assert du is not None
                g, shares = du, None
                partial = _sums(x, mean, rstd, g)
            else:
                decay, gain = (n if c is None else c for n, c in zip(ctx.numbers, learned, strict=True))
                wanted = any(ctx.needs_input_grad[5:7])
                g, partial, shares = _unfire(
                    x, a, b, mean, rstd, u, masks, du, ds, decay, gain, ctx.rule, ctx.dtype, wanted
                )
            dx, d_weight, d_bias = _input_gradient(x, g, a, mean, rstd, stretch, partial)
        total = None if shares is None else shares.sum(0, dtype=torch.float64)
        d_learned = (None if c is None or total is None else total[i].to(c.dtype) for i, c in enumerate(learned))
        d_skip = None if ctx.skip_shape is None else g.sum_to_size(ctx.skip_shape).to(ctx.skip_dtype)
        d_added = None if ctx.added_shape is None or ds is None else ds.sum_to_size(ctx.added_shape).to(ctx.added_dtype)
        return dx, d_weight, d_bias, d_skip, d_added, *d_learned, None, None, None, None


def _affine(x: Tensor, weight: Tensor, bias: Tensor, eps: tuple[float, float]) -> tuple[Tensor, ...]:
    """``[C]``: mean, biased variance, 1/deviation and its stretch, and ``a``, ``b`` of the norm as ``a * x + b``."""
    T, N, C, tiles = _sizes(x)
    rows = T * N // C
    grid, run = _runs(rows, C)
    partial = x.new_empty(grid[0], 2, C, dtype=torch.float32)
    channels = x.new_empty(6, C, dtype=torch.float32).unbind()
    with torch.cuda.device_of(x):
        kernels("norm_fire").statistics_kernel[grid](x, partial, rows, C, run, **tiles, **OPTIONS)
        kernels("norm_fire").affine_kernel[(-(-C // 8),)](
            x, partial, weight, bias, *channels, rows, C, grid[0], *eps, PARTS=PARTS, CHANNELS=8, **OPTIONS
        )  # fmt: skip
    return channels


def _sums(x: Tensor, mean: Tensor, rstd: Tensor, g: Tensor) -> Tensor:
    """Partial sums of g and ``g * xhat``, where g is there already."""
    T, N, C, tiles = _sizes(x)
    rows = T * N // C
    grid, run = _runs(rows, C)
    partial = x.new_empty(grid[0], 2, C, dtype=torch.float32)
    kernels("norm_fire").sums_kernel[grid](x, mean, rstd, g, partial, rows, C, run, **tiles, **OPTIONS)
    return partial


def _unfire(
    x: Tensor,
    a: Tensor,
    b: Tensor,
    mean: Tensor,
    rstd: Tensor,
    u: Tensor | None,
    masks: Tensor | None,
    du: Tensor | None,
    ds: Tensor | None,
    decay: float | Tensor,
    gain: float | Tensor,
    rule: Rule,
    dtype: torch.dtype,
    wanted: bool,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Back through the neurons: g, the partial sums, and where ``wanted`` the shares of decay and gain."""
    T, N, C, tiles = _sizes(x)
    grid, run = _runs(N // C, C)
    g, partial = torch.empty_like(x, dtype=dtype), x.new_empty(grid[0], 2, C, dtype=torch.float32)
    shares = x.new_empty(grid[0] * grid[1], 2, dtype=torch.float32) if wanted else None
    both, slope = rule_constants(rule)
    kernels("norm_fire").backward_kernel[grid](
        x, a, b, mean, rstd, u, masks, du, ds, g, partial, shares, decay, gain, N // C, C, N, run, _dtype(dtype),
        isinstance(decay, Tensor), isinstance(gain, Tensor), T=T, **both, **slope, **tiles, **OPTIONS,
    )  # fmt: skip
    return g, partial, shares


def _input_gradient(
    x: Tensor, g: Tensor, a: Tensor, mean: Tensor, rstd: Tensor, stretch: Tensor, partial: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, weight and bias, from the gradient ``g`` of the norm's output and its partial sums."""
    T, N, C, tiles = _sizes(x)
    d_weight, d_bias = x.new_empty(2, C, dtype=torch.float32).unbind()
    kernels("norm_fire").parameters_kernel[(-(-C // 8),)](
        partial, d_weight, d_bias, C, len(partial), PARTS=PARTS, CHANNELS=8, **OPTIONS
    )  # fmt: skip
    dx, rows = torch.empty_like(x), T * N // C
    kernels("norm_fire").input_kernel[_grid(rows, C)](
        x, g, a, mean, rstd, stretch, d_weight, d_bias, dx, rows, C, **tiles, **OPTIONS
    )  # fmt: skip
    return dx, d_weight, d_bias


def _sizes(x: Tensor) -> tuple[int, int, int, dict[str, int]]:
    """Steps, elements of a step, channels, and the tile."""
    rows, channels = _tile(x.shape[2])
    return len(x), x[0].numel(), x.shape[2], {"ROWS": rows, "CHANNELS": channels}


def _tile(C: int) -> tuple[int, int]:
    """Pixels and channels of a tile, powers of two: whole pixels where they have few channels."""
    channels = min(64, 1 << (C - 1).bit_length())
    return TILE // channels, channels


def _grid(rows: int, C: int) -> tuple[int, int]:
    """One program per tile."""
    tall, wide = _tile(C)
    return -(-rows // tall), -(-C // wide)


def _runs(rows: int, C: int) -> tuple[tuple[int, int], int]:
    """At most ``PARTS`` programs along the rows, and how many rows each of them walks through."""
    tiles, across = _grid(rows, C)
    each = -(-tiles // PARTS)
    return (-(-tiles // each), across), each * _tile(C)[0]


def _step(x: Tensor | None) -> int:
    """Elements from one step to the next of what joins: 0 where it stays the same."""
    return 0 if x is None or len(x) == 1 else x[0].numel()


def _dtype(dtype: torch.dtype) -> Any:
    """As Triton calls it."""
    return getattr(kernels("norm_fire").tl, str(dtype).removeprefix("torch."))

"""Norm, skip and recurrence compiled as one: ``csrc/norm_fire.c``, called on data pointers."""

import ctypes
from typing import Any, cast

import torch
from torch import Tensor

from isospike.errors import RunFailed
from isospike.ops.cpu.abi import CBackward, CForward, CNorm, CRule, address, c_rule
from isospike.ops.cpu.leaky_fire import room_for_masks
from isospike.ops.cpu.library import compiled
from isospike.ops.cpu.refusals import no_second_derivative, refused_dtype, refused_place, refused_rule
from isospike.ops.firing import Firing, NormFired
from isospike.ops.memory import channels_last, empty_like


def refusal(x: Tensor, skip: Tensor | None, added: Tensor | None, firing: Firing | None) -> str | None:
    """Why this cannot be run here, as the end of a sentence; None where it can."""
    dtypes = [tensor.dtype for tensor in (x, skip, added) if tensor is not None]
    reason = refused_place(x) or next(filter(None, map(refused_dtype, dtypes)), None)
    return reason if firing is None else reason or refused_rule(firing.rule)


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
    """See ``isospike.ops.norm_fire``; here ``refusal`` has said that it can. A second derivative is refused."""
    decay, gain, rule = (None, None, None) if firing is None else (firing.decay, firing.gain, firing.rule)
    return NormFired(
        *_NormFire.apply(
            x, weight, bias, skip, added, decay, gain, rule, (eps, root_eps), keep, torch.is_grad_enabled()
        )
    )


class _NormFire(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        skip: Tensor | None,
        added: Tensor | None,
        decay: Any,
        gain: Any,
        rule: Any,
        eps: tuple[float, float],
        keep: bool,
        records: bool,
    ) -> tuple[Tensor | None, ...]:
        x, C = channels_last(x), x.shape[2]
        weight, bias = weight.contiguous(), bias.contiguous()
        ctx.set_materialize_grads(False)
        ctx.rule = None if rule is None else c_rule(rule, float(decay), float(gain))
        ctx.eps = eps
        ctx.learned = isinstance(decay, Tensor), isinstance(gain, Tensor)
        statistics, affine = x.new_empty(2, C), x.new_empty(3, C)
        masks = None
        if ctx.rule is not None and records and any(ctx.needs_input_grad) and not any(ctx.learned):
            size = x.shape[0], x[0].numel(), C
            masks = room_for_masks(rule, compiled().isospike_norm_fire_masks, ctx.rule, *size)
        wants_u = records and rule is not None and skip is not None and masks is None
        u = empty_like(x) if keep or wants_u else None
        s = None if rule is None else empty_like(x)
        skip = None if skip is None else channels_last(skip)
        added = None if added is None else channels_last(added.expand_as(x))
        ctx.skip_shape = None if skip is None else skip.shape
        call = CForward(
            rule=_address(ctx.rule), T=x.shape[0], N=x[0].numel(), C=C,
            skip_step=0 if skip is None or skip.shape[0] == 1 else skip[0].numel(),
            norm=_norm(statistics, affine, eps, weight, bias),
            x=address(x), skip=address(skip), added=address(added), u=address(u), s=address(s),
            masks=address(masks),
        )  # fmt: skip
        _run(compiled().isospike_norm_fire_forward, call)
        ctx.save_for_backward(x, statistics, affine, u if wants_u else None, masks)
        mean, var = statistics.clone()
        ctx.mark_non_differentiable(mean, var)
        return (u if keep else None), s, mean, var

    @staticmethod
    def backward(ctx: Any, d_u: Tensor | None, d_s: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise no_second_derivative("norm")
        x, statistics, affine, u, masks = ctx.saved_tensors
        d_u = None if d_u is None else channels_last(d_u)
        d_added = d_s if ctx.needs_input_grad[4] else None
        d_s = None if d_s is None else channels_last(d_s)
        C = x.shape[2]
        g = cast(Tensor, d_u) if d_s is None else empty_like(x)
        d_x = g if d_s is not None and ctx.skip_shape is None else empty_like(x)
        d_bias, d_weight = x.new_empty(2, C)
        shares = x.new_empty(2) if any(ctx.learned) else None
        call = CBackward(
            rule=_address(ctx.rule), T=x.shape[0], N=x[0].numel(), C=C, norm=_norm(statistics, affine, ctx.eps),
            x=address(x), u=address(u), d_s=address(d_s), d_u=address(d_u), g=None if d_s is None else address(g),
            d_x=address(d_x), d_bias=address(d_bias), d_weight=address(d_weight), coefficients=address(shares),
            masks=address(masks),
        )  # fmt: skip
        _run(compiled().isospike_norm_fire_backward, call)
        d_decay, d_gain = (None, None) if shares is None else shares
        learned = d_decay if ctx.learned[0] else None, d_gain if ctx.learned[1] else None
        d_skip = None if ctx.skip_shape is None else g.sum_to_size(ctx.skip_shape)
        return d_x, d_weight, d_bias, d_skip, d_added, *learned, None, None, None, None


def _norm(
    statistics: Tensor,
    affine: Tensor,
    eps: tuple[float, float],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
) -> CNorm:
    """From ``statistics [2, C]`` and ``affine [3, C]``; the backward needs no more."""
    row = statistics.shape[1] * statistics.element_size()
    mean, rstd = statistics.data_ptr(), affine.data_ptr()
    return CNorm(address(weight), address(bias), *eps, mean, mean + row, rstd, rstd + row, rstd + 2 * row)


def _address(rule: CRule | None) -> int | None:
    return None if rule is None else ctypes.addressof(rule)


def _run(function: Any, call: ctypes.Structure) -> None:
    if function(ctypes.byref(call), torch.get_num_threads()):
        raise RunFailed("there is no memory left for a norm: take a smaller batch")

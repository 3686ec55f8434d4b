"""Norm, skip and recurrence compiled as one: ``csrc/norm_fire.c``, called on data pointers."""

import ctypes
from typing import Any, cast

import torch
from torch import Tensor

from isospike.errors import RunFailed
from isospike.ops import cpu
from isospike.ops.firing import Firing, NormFired

_POINTER, _INTEGER = ctypes.c_void_p, ctypes.c_int64


class _Forward(ctypes.Structure):
    """``struct forward`` of the C source."""

    _fields_ = [
        ("rule", _POINTER),
        *((name, _INTEGER) for name in ("T", "N", "C", "skip_step")),
        *((name, _POINTER) for name in ("x", "a", "b", "skip", "added", "u", "s")),
    ]


class _Backward(ctypes.Structure):
    """``struct backward`` of the C source."""

    _fields_ = [
        ("rule", _POINTER),
        *((name, _INTEGER) for name in ("T", "N", "C")),
        *(
            (name, _POINTER)
            for name in ("x", "a", "b", "mean", "rstd", "u", "grad_s", "grad_u", "g", "sums", "coefficients")
        ),
    ]


def refusal(x: Tensor, skip: Tensor | None, added: Tensor | None, firing: Firing | None) -> str | None:
    """Why this cannot be run here, as the end of a sentence; None where it can."""
    for tensor in (x, skip, added):
        if tensor is not None and tensor.dtype != torch.float32:
            return f"it computes in float32, and one of its tensors is {str(tensor.dtype).removeprefix('torch.')}"
    if firing is None:
        return cpu.no_library() or cpu.wrong_place(x)
    return cpu.refusal(x, None, firing.rule)


def norm_fire(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    *,
    skip: Tensor | None,
    firing: Firing | None,
    added: Tensor | None,
    keep: bool,
) -> NormFired:
    """See ``isospike.ops.norm_fire``; here ``refusal`` has said that it can. A second derivative is refused."""
    decay, gain, rule = (None, None, None) if firing is None else (firing.decay, firing.gain, firing.rule)
    return NormFired(*_NormFire.apply(x, weight, bias, skip, added, decay, gain, rule, eps, keep))


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
        eps: float,
        keep: bool,
    ) -> tuple[Tensor | None, ...]:
        x = channels_last(x)
        ctx.set_materialize_grads(False)
        ctx.rule = None if rule is None else cpu.c_rule(rule, float(decay), float(gain))
        ctx.learned = isinstance(decay, Tensor), isinstance(gain, Tensor)
        mean, var = _statistics(x)
        rstd = (var + eps).rsqrt()
        a = weight * rstd
        b = bias - mean * a
        u = torch.empty_like(x) if keep or (rule is not None and skip is not None) else None
        s = None if rule is None else torch.empty_like(x)
        skip = None if skip is None else channels_last(skip)
        added = None if added is None else channels_last(added.expand_as(x))
        ctx.skip_shape = None if skip is None else skip.shape
        call = _Forward(
            rule=_address(ctx.rule), T=x.shape[0], N=x[0].numel(), C=x.shape[2],
            skip_step=0 if skip is None or skip.shape[0] == 1 else skip[0].numel(),
            x=cpu.data(x), a=cpu.data(a), b=cpu.data(b), skip=cpu.data(skip), added=cpu.data(added),
            u=cpu.data(u), s=cpu.data(s),
        )  # fmt: skip
        _run(cpu.compiled().isospike_norm_fire_forward, call)
        ctx.save_for_backward(x, a, b, mean, rstd, u if rule is not None and skip is not None else None)
        ctx.mark_non_differentiable(mean, var)
        return (u if keep else None), s, mean, var

    @staticmethod
    def backward(ctx: Any, du: Tensor | None, ds: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise cpu.no_second_derivative("norm")
        x, a, b, mean, rstd, u = ctx.saved_tensors
        du = None if du is None else channels_last(du)
        d_added = ds if ctx.needs_input_grad[4] else None
        ds = None if ds is None else channels_last(ds)
        C, makes_g = x.shape[2], ds is not None
        g = torch.empty_like(x) if makes_g else cast(Tensor, du)
        chunks = cpu.compiled().isospike_chunks(x[0].numel(), C)
        sums = torch.zeros(chunks, 2, C, dtype=torch.float64)
        shares = torch.zeros(chunks, 2, dtype=torch.float64) if any(ctx.learned) else None
        call = _Backward(
            rule=_address(ctx.rule), T=x.shape[0], N=x[0].numel(), C=C, x=cpu.data(x), a=cpu.data(a), b=cpu.data(b),
            mean=cpu.data(mean), rstd=cpu.data(rstd), u=cpu.data(u), grad_s=cpu.data(ds), grad_u=cpu.data(du),
            g=cpu.data(g) if makes_g else None, sums=cpu.data(sums), coefficients=cpu.data(shares),
        )  # fmt: skip
        _run(cpu.compiled().isospike_norm_fire_backward, call)
        d_bias, d_weight = sums.sum(0).to(x.dtype)
        dx = _input_gradient(
            x, g, a, mean, rstd, d_weight, d_bias, onto=g if ctx.skip_shape is None and ds is not None else None
        )
        d_decay, d_gain = (None, None) if shares is None else shares.sum(0).to(x.dtype)
        learned = d_decay if ctx.learned[0] else None, d_gain if ctx.learned[1] else None
        d_skip = None if ctx.skip_shape is None else g.sum_to_size(ctx.skip_shape)
        return dx, d_weight, d_bias, d_skip, d_added, *learned, None, None, None


def _statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance ``[C]``, over time, batch and space."""
    C = x.shape[2]
    mean, var = x.new_empty(2, C)
    sums = torch.zeros(cpu.compiled().isospike_chunks(x.numel(), C), 2, C, dtype=torch.float64)
    _check(
        cpu.compiled().isospike_norm_statistics(
            x.numel(), C, x.data_ptr(), sums.data_ptr(), mean.data_ptr(), var.data_ptr(), torch.get_num_threads()
        )
    )
    return mean, var


def _input_gradient(
    x: Tensor, g: Tensor, a: Tensor, mean: Tensor, rstd: Tensor, d_weight: Tensor, d_bias: Tensor, onto: Tensor | None
) -> Tensor:
    """From the gradient ``g`` of the norm's output to that of its input, written onto ``g`` where it may be."""
    count = x.numel() // x.shape[2]
    dx = torch.empty_like(x) if onto is None else onto
    channels = [a, d_bias / count, mean, rstd * d_weight / count]
    pointers = (tensor.data_ptr() for tensor in (x, g, *channels, dx))
    _check(cpu.compiled().isospike_norm_input_gradient(x.numel(), x.shape[2], *pointers, torch.get_num_threads()))
    return dx


def channels_last(x: Tensor) -> Tensor:
    """``x [T, B, C, H, W]`` with its channels innermost and nothing between them."""
    folded = x.flatten(0, 1)
    if folded.is_contiguous(memory_format=torch.channels_last) and folded.data_ptr() == x.data_ptr():
        return x
    return folded.contiguous(memory_format=torch.channels_last).unflatten(0, x.shape[:2])


def _address(rule: cpu.CRule | None) -> int | None:
    return None if rule is None else ctypes.addressof(rule)


def _run(function: Any, call: ctypes.Structure) -> None:
    _check(function(ctypes.byref(call), torch.get_num_threads()))


def _check(failed: int) -> None:
    if failed:
        raise RunFailed("there is no memory left for a norm: take a smaller batch")

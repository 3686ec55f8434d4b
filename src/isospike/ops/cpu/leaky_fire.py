"""The recurrence compiled: ``csrc/leaky_fire.c``, called on data pointers, on float32 in the memory of the CPU."""

import ctypes
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from isospike.errors import RunFailed
from isospike.ops.cpu.abi import address, c_rule
from isospike.ops.cpu.library import compiled
from isospike.ops.cpu.refusals import no_second_derivative, refused_dtype, refused_place, refused_rule
from isospike.ops.memory import empty_strided, in_steps, laid_out, like_state, like_steps
from isospike.ops.rule import Rule


def refusal(x: Tensor, v: Tensor | None, rule: Rule) -> str | None:
    """Why this cannot be run here, as the end of a sentence; None where it can."""
    dtypes = [tensor.dtype for tensor in (x, v) if tensor is not None]
    return refused_place(x) or next(filter(None, map(refused_dtype, dtypes)), None) or refused_rule(rule)


def leaky_fire(
    x: Tensor, v: Tensor | None, *, decay: float | Tensor, gain: float | Tensor, rule: Rule
) -> tuple[Tensor, Tensor]:
    """See ``isospike.ops.leaky_fire``; here ``refusal`` has said that it can. A second derivative is refused."""
    return _LeakyFire.apply(x, v, decay, gain, rule, torch.is_grad_enabled())


class _LeakyFire(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, v: Tensor | None, decay: float | Tensor, gain: float | Tensor, rule: Rule, records: bool
    ) -> tuple[Tensor, Tensor]:
        x = in_steps(x)
        ctx.set_materialize_grads(False)
        ctx.c_rule = c_rule(rule, float(decay), float(gain))
        ctx.learned = (isinstance(decay, Tensor), isinstance(gain, Tensor))
        end, s = like_state(x, rule), like_steps(x)
        v = None if v is None else laid_out(v, like_state(x, rule))
        masks = None
        if records and any(ctx.needs_input_grad) and not any(ctx.learned):
            masks = room_for_masks(rule, compiled().isospike_masks, ctx.c_rule, x.shape[0], x[0].numel())
        compiled().isospike_forward(
            ctypes.byref(ctx.c_rule), *_steps(x), address(v), *map(address, (end, s, masks)), torch.get_num_threads()
        )
        ctx.steps, ctx.state = (s.shape, s.stride()), (end.shape, end.stride())
        ctx.continues = v is not None
        ctx.save_for_backward(*((None, None) if masks is not None else (x, v)), masks)
        return s, end

    @staticmethod
    def backward(ctx: Any, ds: Tensor | None, d_end: Tensor | None) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise no_second_derivative("recurrence")
        x, v, masks = ctx.saved_tensors
        ds = empty_strided(*ctx.steps).zero_() if ds is None else laid_out(ds, empty_strided(*ctx.steps))
        d_end = None if d_end is None else laid_out(d_end, empty_strided(*ctx.state))
        dx, dv = empty_strided(*ctx.steps), empty_strided(*ctx.state) if ctx.continues else None
        grads = [address(tensor) for tensor in (ds, d_end, dv, dx)]
        lib, rule, threads = compiled(), ctypes.byref(ctx.c_rule), torch.get_num_threads()
        if masks is not None:
            lib.isospike_backward_masked(rule, len(dx), dx[0].numel(), address(masks), *grads, threads)
            return dx, dv, None, None, None, None
        shares = None
        if any(ctx.learned):
            shares = torch.zeros(-(-x[0].numel() // lib.isospike_block()), 2, dtype=torch.float64)
        if lib.isospike_backward(rule, *_steps(x), address(v), *grads, address(shares), threads):
            raise RunFailed("there is no memory left for the backward pass of a neuron: take a smaller batch")
        d_decay = d_gain = None
        if shares is not None:
            total = shares.sum(0).to(x.dtype)
            d_decay, d_gain = (total[i] if learned else None for i, learned in enumerate(ctx.learned))
        return dx, dv, d_decay, d_gain, None, None


def room_for_masks(rule: Rule, bytes_for: Callable[..., int], *sizes: Any) -> Tensor | None:
    """An empty tensor for the two bits of every neuron and step; None where the backward pass needs more than these."""
    return torch.empty(bytes_for(*sizes), dtype=torch.uint8) if rule.masks_suffice else None


def _steps(x: Tensor) -> tuple[int, int, int, int]:
    """T, N, the data, and from one step to the next."""
    return x.shape[0], x[0].numel(), x.data_ptr(), x.stride(0) if x.shape[0] > 1 else 0

"""The recurrence compiled: ``csrc/leaky_fire.c``, called on data pointers, on float32 in the memory of the CPU."""

import ctypes
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from isospike.errors import ConfigError, RunFailed
from isospike.ops.cpu.library import compiled, no_library
from isospike.ops.cpu.structs import MAX_LEVELS, CRule
from isospike.ops.memory import empty_strided, has_memory, in_steps, laid_out, like_state, like_steps
from isospike.ops.rule import FireRule, IntegerRule, Rule
from isospike.surrogates import Arctan, Rectangle, Sigmoid, Surrogate, Triangle

SURROGATES: dict[type[Surrogate], tuple[int, str]] = {
    Rectangle: (0, "width"),
    Arctan: (1, "alpha"),
    Sigmoid: (2, "alpha"),
    Triangle: (3, "gamma"),
}


def refusal(x: Tensor, v: Tensor | None, rule: Rule) -> str | None:
    """Why this cannot be run here, as the end of a sentence; None where it can."""
    reason = wrong_place(x) or no_library() or wrong_dtype(x.dtype) or (None if v is None else wrong_dtype(v.dtype))
    if reason is not None:
        return reason
    if type(rule) not in (FireRule, IntegerRule):
        return f"it does not know the rule {type(rule).__name__}"
    if isinstance(rule, FireRule) and type(rule.surrogate) not in SURROGATES:
        return f"it does not know the surrogate {type(rule.surrogate).__name__}"
    if rule.levels > MAX_LEVELS and isinstance(rule, FireRule):
        return f"it has room for {MAX_LEVELS} levels"
    return None


def wrong_place(x: Tensor) -> str | None:
    """What is wrong with a tensor whose memory cannot be handed to the library."""
    if x.device.type != "cpu" or not has_memory(x):
        return "it runs on plain tensors in the memory of the CPU"
    return None


def wrong_dtype(dtype: torch.dtype) -> str | None:
    """What is wrong with numbers of this kind."""
    return (
        None if dtype == torch.float32 else f"it computes in float32, and is given {str(dtype).removeprefix('torch.')}"
    )


def no_second_derivative(what: str) -> ConfigError:
    """The refusal."""
    return ConfigError(f"the compiled {what} has no second derivative: run this inside iso.use_backend('reference')")


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
        gates = None
        if records and any(ctx.needs_input_grad) and not any(ctx.learned):
            gates = room_for_gates(compiled().isospike_gates, ctx.c_rule, x.shape[0], x[0].numel())
        compiled().isospike_forward(
            ctypes.byref(ctx.c_rule), *_steps(x), data(v), *map(data, (end, s, gates)), torch.get_num_threads()
        )
        ctx.steps, ctx.state = (s.shape, s.stride()), (end.shape, end.stride())
        ctx.continues = v is not None
        ctx.save_for_backward(*((None, None) if gates is not None else (x, v)), gates)
        return s, end

    @staticmethod
    def backward(ctx: Any, ds: Tensor | None, d_end: Tensor | None) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise no_second_derivative("recurrence")
        x, v, gates = ctx.saved_tensors
        ds = empty_strided(*ctx.steps).zero_() if ds is None else laid_out(ds, empty_strided(*ctx.steps))
        d_end = None if d_end is None else laid_out(d_end, empty_strided(*ctx.state))
        dx, dv = empty_strided(*ctx.steps), empty_strided(*ctx.state) if ctx.continues else None
        grads = [data(tensor) for tensor in (ds, d_end, dv, dx)]
        lib, rule, threads = compiled(), ctypes.byref(ctx.c_rule), torch.get_num_threads()
        if gates is not None:
            lib.isospike_backward_gated(rule, len(dx), dx[0].numel(), data(gates), *grads, threads)
            return dx, dv, None, None, None, None
        shares = None
        if any(ctx.learned):
            shares = torch.zeros(-(-x[0].numel() // lib.isospike_block()), 2, dtype=torch.float64)
        if lib.isospike_backward(rule, *_steps(x), data(v), *grads, data(shares), threads):
            raise RunFailed("there is no memory left for the backward pass of a neuron: take a smaller batch")
        d_decay = d_gain = None
        if shares is not None:
            total = shares.sum(0).to(x.dtype)
            d_decay, d_gain = (total[i] if learned else None for i, learned in enumerate(ctx.learned))
        return dx, dv, d_decay, d_gain, None, None


def room_for_gates(bytes_for: Callable[..., int], rule: CRule, *sizes: int) -> Tensor | None:
    """An empty tensor for the two bits of every neuron and step that are all the backward needs; None where it needs
    more."""
    count = bytes_for(ctypes.byref(rule), *sizes)
    return torch.empty(count, dtype=torch.uint8) if count else None


def c_rule(rule: Rule, decay: float, gain: float) -> CRule:
    """A rule as the C source takes it."""
    if isinstance(rule, FireRule):
        surrogate, name = SURROGATES[type(rule.surrogate)]
        fields = {
            "v_reset": rule.v_reset,
            "parameter": getattr(rule.surrogate, name),
            "subtract": rule.reset == "subtract",
            "strict": rule.strict,
            "surrogate": surrogate,
            "levels": rule.levels,
        }
        thresholds = (rule.v_threshold, *rule.higher)
    else:
        fields, thresholds = {"subtract": True, "levels": 1, "integer": rule.levels}, (rule.v_threshold,)
    c_rule = CRule(decay=decay, gain=gain, detach=rule.detach_reset, **fields)
    c_rule.thresholds[: len(thresholds)] = thresholds
    return c_rule


def _steps(x: Tensor) -> tuple[int, int, int, int]:
    """T, N, the data, and from one step to the next."""
    return x.shape[0], x[0].numel(), x.data_ptr(), x.stride(0) if x.shape[0] > 1 else 0


def data(x: Tensor | None) -> int | None:
    """Where the first element is; None where there is no tensor."""
    return None if x is None else x.data_ptr()

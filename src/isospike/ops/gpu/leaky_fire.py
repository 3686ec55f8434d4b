"""The recurrence on a GPU: ``kernels/leaky_fire.py`` launched, with its gradients handed to autograd."""

import importlib
import os
from functools import cache
from typing import Any

import torch
from torch import Tensor

from isospike.errors import ConfigError
from isospike.ops.fired import note_fired
from isospike.ops.memory import empty_strided, has_memory, in_steps, laid_out, like_state, like_steps
from isospike.ops.rule import FireRule, IntegerRule, Rule

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
MAX_STATES = 24  # steps times levels unrolled in one kernel; a longer current takes several, one behind the other
MASKS = (torch.uint8, torch.int16, torch.int32, torch.int64)  # two bits for each of up to MAX_STATES steps
MAX_LEVELS, MAX_INTEGER = 8, 2**20
FORWARD_BLOCK, BACKWARD_BLOCK = 1024, 512
# Products and sums stay apart, so that potentials have the bits of the reference.
OPTIONS = {"num_warps": 4, "enable_fp_fusion": False}


@cache
def installed() -> bool:
    """Whether Triton can be imported."""
    try:
        importlib.import_module("triton")
    except ModuleNotFoundError as error:
        if error.name != "triton":
            raise
        return False
    return True


def interpreted() -> bool:
    """Whether Triton runs its kernels in Python, on tensors in the memory of the CPU."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def refusal(x: Tensor, v: Tensor | None, rule: Rule) -> str | None:
    """Why this cannot be run here, as the end of a sentence; None where it can."""
    if reason := refused_current(x) or refused_rule(rule):
        return reason
    if v is not None and v.dtype != torch.float32:
        return f"it keeps potentials in float32, and those given are {_name(v.dtype)}"
    return None


def refused_current(x: Tensor) -> str | None:
    """Say why a kernel cannot read a tensor, or return None."""
    if not has_memory(x):
        return "it runs on plain tensors"
    if x.device.type != ("cpu" if interpreted() else "cuda"):
        where = "of the CPU, under Triton's interpreter" if interpreted() else "of a CUDA device"
        return f"it runs on tensors in the memory {where}, and the current is on '{x.device.type}'"
    if not installed():
        return "the package triton is missing: pip install triton"
    if x.dtype not in DTYPES:
        return f"it takes currents in float32, float16 and bfloat16, and this one is {_name(x.dtype)}"
    return None


def refused_rule(rule: Rule) -> str | None:
    """Say which part of a rule no kernel knows, or return None."""
    if type(rule) not in (FireRule, IntegerRule):
        return f"it does not know the rule {type(rule).__name__}"
    if rule.levels > (MAX_LEVELS if isinstance(rule, FireRule) else MAX_INTEGER):
        return f"it has room for {MAX_LEVELS} levels, and for integers up to {MAX_INTEGER}"
    if isinstance(rule, FireRule) and rule.surrogate.kernel is None:
        return f"it does not know the surrogate {type(rule.surrogate).__name__}"
    return None


def potentials(rule: Rule) -> int:
    """How many potentials a neuron has."""
    return rule.levels if isinstance(rule, FireRule) else 1


def no_second_derivative() -> ConfigError:
    """The refusal."""
    return ConfigError("the Triton kernels have no second derivative: run this inside iso.use_backend('reference')")


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def leaky_fire(
    x: Tensor, v: Tensor | None, *, decay: float | Tensor, gain: float | Tensor, rule: Rule
) -> tuple[Tensor, Tensor]:
    """See ``isospike.ops.leaky_fire``; here ``refusal`` has said that it can. A second derivative is refused.

    The reference in float32 to the last bit, on half precision too: only the current that is read and the spikes that
    are written are of its dtype. The bits of a gradient do not change from run to run.
    """
    records, spikes, bits = torch.is_grad_enabled(), [], None
    for part in x.split(MAX_STATES // potentials(rule)):
        s, v, bits = _LeakyFire.apply(part, v, decay, gain, rule, records)
        spikes.append(s)
    assert v is not None
    s, bits = (spikes[0], bits) if len(spikes) == 1 else (torch.cat(spikes), None)
    note_fired(s, rule.levels, bits)
    return s, v


def room_for_bits(s: Tensor, rule: Rule) -> Tensor | None:
    """An empty tensor for the bits of spikes whose groups of 8 the kernels see whole; None where no bits can be."""
    if not isinstance(rule, FireRule) or rule.levels > 1:
        return None
    return torch.empty(s.numel() // 8, dtype=torch.uint8, device=s.device)


def room_for_masks(x: Tensor, rule: Rule) -> Tensor | None:
    """An integer per neuron for the masks of all its steps; None where the backward needs more than masks."""
    if not rule.masks_suffice or rule.levels > 1:
        return None
    dtype = next(dtype for dtype in MASKS if 2 * len(x) <= dtype.itemsize * 8)
    return torch.empty(x[0].numel(), dtype=dtype, device=x.device)


def mask_width(rule: Rule, masks: Tensor | None) -> float | None:
    """Of the rectangle, where there are masks."""
    return None if masks is None else rule_constants(rule)[1]["PARAMETER"]


class _LeakyFire(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, v: Tensor | None, decay: float | Tensor, gain: float | Tensor, rule: Rule, records: bool
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        x = in_steps(x)
        v = None if v is None else laid_out(v, like_state(x, rule))
        s, end = like_steps(x), like_state(x, rule)
        N, (constants, _) = x[0].numel(), rule_constants(rule)
        learned = isinstance(decay, Tensor), isinstance(gain, Tensor)
        bits = room_for_bits(s, rule) if records and N % 8 == 0 else None
        masks = room_for_masks(x, rule) if records and not any(learned) else None
        with torch.cuda.device_of(x):
            kernels("leaky_fire").forward_kernel[(-(-N // FORWARD_BLOCK),)](
                x, v, s, end, bits, masks, decay, gain, N, _step(x), *learned,
                T=len(x), **constants, PARAMETER=mask_width(rule, masks), BLOCK=FORWARD_BLOCK, **OPTIONS,
            )  # fmt: skip
        ctx.set_materialize_grads(False)
        ctx.rule, ctx.numbers = rule, tuple(None if isinstance(c, Tensor) else c for c in (decay, gain))
        ctx.steps, ctx.state = ((o.shape, o.stride(), o.dtype, o.device) for o in (s, end))
        ctx.continues = v is not None
        kept = (x, v, None) if masks is None else (None, None, masks)
        ctx.save_for_backward(*kept, *(c if isinstance(c, Tensor) else None for c in (decay, gain)))
        if bits is not None:
            ctx.mark_non_differentiable(bits)
        return s, end, bits

    @staticmethod
    def backward(ctx: Any, ds: Tensor | None, d_end: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise no_second_derivative()
        x, v, masks, *learned = ctx.saved_tensors
        decay, gain = (n if c is None else c for n, c in zip(ctx.numbers, learned, strict=True))
        dx, dv = empty_strided(*ctx.steps), empty_strided(*ctx.state) if ctx.continues else None
        ds = None if ds is None else laid_out(ds, empty_strided(*ctx.steps))
        d_end = None if d_end is None else laid_out(d_end, empty_strided(*ctx.state))
        N, (constants, slope_constants) = dx[0].numel(), rule_constants(ctx.rule)
        programs = -(-N // BACKWARD_BLOCK)
        shares = dx.new_empty(programs, 2, dtype=torch.float32) if any(ctx.needs_input_grad[2:4]) else None
        with torch.cuda.device_of(dx):
            kernels("leaky_fire").backward_kernel[(programs,)](
                x, v, masks, ds, d_end, dx, dv, shares, decay, gain, N, 0 if x is None else _step(x),
                *(c is not None for c in learned),
                T=len(dx), **constants, **slope_constants, BLOCK=BACKWARD_BLOCK, **OPTIONS,
            )  # fmt: skip
        total = None if shares is None else shares.sum(0, dtype=torch.float64)
        d_learned = (None if c is None or total is None else total[i].to(c.dtype) for i, c in enumerate(learned))
        return dx, dv, *d_learned, None, None


@cache
def rule_constants(rule: Rule) -> tuple[dict[str, Any], dict[str, Any]]:
    """Compile-time constants that both kernels take, and those that the backward takes besides."""
    slope: dict[str, Any] = {"DETACH": rule.detach_reset, "SURROGATE": None, "PARAMETER": None}
    if isinstance(rule, FireRule):
        both = {"V_RESET": rule.v_reset, "SUBTRACT": rule.reset == "subtract", "STRICT": rule.strict, "INTEGER": 0}
        thresholds = [rule.v_threshold, *rule.higher]
        kernel = rule.surrogate.kernel
        assert kernel is not None, "refused_rule() was not asked"
        slope["SURROGATE"] = getattr(kernels("rule"), kernel.triton)
        slope["PARAMETER"] = float(getattr(rule.surrogate, kernel.parameter))
    else:
        both = {"V_RESET": 0.0, "SUBTRACT": True, "STRICT": False, "INTEGER": rule.levels}
        thresholds = [rule.v_threshold]
    return {**both, "THRESHOLDS": tuple(map(float, thresholds)), "LEVELS": len(thresholds)}, slope


def kernels(name: str) -> Any:
    """A file of kernels, imported once something is to run: importing Triton takes a while."""
    return importlib.import_module(f"isospike.ops.gpu.kernels.{name}")


def _step(x: Tensor) -> int:
    """Elements from one step of the current to the next."""
    return x.stride(0) if len(x) > 1 else 0

"""The recurrence on a GPU: ``kernels/fire.py`` launched, with its gradients handed to autograd."""

import importlib
import os
from functools import cache
from typing import Any

import torch
from torch import Tensor

from isospike.errors import ConfigError
from isospike.ops.memory import in_steps, laid_out, like_state, like_steps
from isospike.ops.rule import FireRule, Rule
from isospike.surrogates import Arctan, Rectangle, Sigmoid, Surrogate, Triangle

SURROGATES: dict[type[Surrogate], tuple[str, str]] = {  # a function of kernels/rule.py, and its parameter
    Rectangle: ("rectangle", "width"),
    Arctan: ("arctan", "alpha"),
    Sigmoid: ("sigmoid", "alpha"),
    Triangle: ("triangle", "gamma"),
}
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
MAX_STATES = 24  # steps times levels unrolled in one kernel; a longer current takes several, one behind the other
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
    """What is wrong with a tensor that a kernel should read."""
    if torch.compiler.is_compiling() or torch._C._functorch.is_functorch_wrapped_tensor(x):
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
    """What of a rule no kernel knows."""
    if rule.levels > (MAX_LEVELS if isinstance(rule, FireRule) else MAX_INTEGER):
        return f"it has room for {MAX_LEVELS} levels, and for integers up to {MAX_INTEGER}"
    if isinstance(rule, FireRule) and type(rule.surrogate) not in SURROGATES:
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
    spikes = []
    for part in x.split(MAX_STATES // potentials(rule)):
        s, v = _LeakyFire.apply(part, v, decay, gain, rule)
        spikes.append(s)
    assert v is not None
    return (spikes[0] if len(spikes) == 1 else torch.cat(spikes)), v


class _LeakyFire(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, v: Tensor | None, decay: float | Tensor, gain: float | Tensor, rule: Rule
    ) -> tuple[Tensor, Tensor]:
        x = in_steps(x)
        v = None if v is None else laid_out(v, like_state(x, rule))
        s, end = like_steps(x), like_state(x, rule)
        N, (constants, _) = x[0].numel(), rule_constants(rule)
        with torch.cuda.device_of(x):
            kernels("fire").forward_kernel[(-(-N // FORWARD_BLOCK),)](
                x, v, s, end, decay, gain, N, _step(x), isinstance(decay, Tensor), isinstance(gain, Tensor),
                T=len(x), **constants, BLOCK=FORWARD_BLOCK, **OPTIONS,
            )  # fmt: skip
        ctx.set_materialize_grads(False)
        ctx.rule, ctx.numbers = rule, tuple(None if isinstance(c, Tensor) else c for c in (decay, gain))
        ctx.save_for_backward(x, v, *(c if isinstance(c, Tensor) else None for c in (decay, gain)))
        return s, end

    @staticmethod
    def backward(ctx: Any, ds: Tensor | None, d_end: Tensor | None) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise no_second_derivative()
        x, v, *learned = ctx.saved_tensors
        decay, gain = (n if c is None else c for n, c in zip(ctx.numbers, learned, strict=True))
        ds = None if ds is None else laid_out(ds, like_steps(x))
        d_end = None if d_end is None else laid_out(d_end, like_state(x, ctx.rule))
        dx, dv = like_steps(x), None if v is None else like_state(x, ctx.rule)
        N, (constants, slope_constants) = x[0].numel(), rule_constants(ctx.rule)
        programs = -(-N // BACKWARD_BLOCK)
        shares = x.new_empty(programs, 2, dtype=torch.float32) if any(ctx.needs_input_grad[2:4]) else None
        with torch.cuda.device_of(x):
            kernels("fire").backward_kernel[(programs,)](
                x, v, ds, d_end, dx, dv, shares, decay, gain, N, _step(x), *(c is not None for c in learned),
                T=len(x), **constants, **slope_constants, BLOCK=BACKWARD_BLOCK, **OPTIONS,
            )  # fmt: skip
        total = None if shares is None else shares.sum(0, dtype=torch.float64)
        d_learned = (None if c is None or total is None else total[i].to(c.dtype) for i, c in enumerate(learned))
        return dx, dv, *d_learned, None


@cache
def rule_constants(rule: Rule) -> tuple[dict[str, Any], dict[str, Any]]:
    """Compile-time constants that both kernels take, and those that the backward takes besides."""
    slope: dict[str, Any] = {"DETACH": rule.detach_reset, "SURROGATE": None, "PARAMETER": None}
    if isinstance(rule, FireRule):
        both = {"V_RESET": rule.v_reset, "SUBTRACT": rule.reset == "subtract", "STRICT": rule.strict, "INTEGER": 0}
        thresholds = [rule.v_threshold, *rule.higher]
        function, parameter = SURROGATES[type(rule.surrogate)]
        slope["SURROGATE"] = getattr(kernels("rule"), function)
        slope["PARAMETER"] = float(getattr(rule.surrogate, parameter))
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

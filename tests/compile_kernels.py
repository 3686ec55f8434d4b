"""Compiles every kernel for a GPU that need not be there, and prints how many fused multiply-adds each holds.

Run as a program, in a process where Triton does not interpret. A driver that only names the machine stands in for one.
"""

import json
import sys

import torch
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver

from isospike.ops import FireRule, IntegerRule
from isospike.ops.gpu import fire
from isospike.ops.gpu.kernels import fire as fire_kernels
from isospike.surrogates import SURROGATES

RULES = [
    *(FireRule(surrogate=SURROGATES[name](), v_threshold=0.6, v_reset=-0.5) for name in SURROGATES),
    FireRule(higher=(2.0, 3.0), reset="subtract", strict=True, detach_reset=True),
    IntegerRule(detach_reset=False),
]


class NamedDriver:
    """Hopper, as far as the compiler needs to know."""

    def get_current_device(self):
        return 0

    def get_current_stream(self, device):
        return 0

    def get_current_target(self):
        return GPUTarget("cuda", 90, 32)


def fused(kernel):
    assert len(kernel.asm["cubin"]) > 0
    return kernel.asm["ptx"].count("fma.")


def compile_recurrence(rule, dtype, *, learned, given):
    x = torch.empty(4, 2, 1024, dtype=dtype)
    state = torch.empty(rule.state_shape((2, 1024)))
    v = state if given else None
    decay, gain = (torch.tensor(0.3), torch.tensor(0.7)) if learned else (0.3, 1.0)
    shares = torch.empty(4, 2) if learned else None
    common = [decay, gain, 2048, 2048, learned, learned]
    both, slope = fire.rule_constants(rule)
    run = {"T": 4, **both, **fire.OPTIONS, "grid": (1,)}
    forward = fire_kernels.forward_kernel.warmup(x, v, x, state, *common, BLOCK=fire.FORWARD_BLOCK, **run)
    backward = fire_kernels.backward_kernel.warmup(
        x, v, x, v, x, v, shares, *common, BLOCK=fire.BACKWARD_BLOCK, **slope, **run
    )
    return fused(forward) + fused(backward)


if __name__ == "__main__":
    driver.set_active(NamedDriver())
    counts = {}
    for number, rule in enumerate(RULES):
        half = number % 2 == 1
        dtype = torch.bfloat16 if half else torch.float32
        counts[f"{rule} {dtype}"] = compile_recurrence(rule, dtype, learned=half, given=half)
    json.dump(counts, sys.stdout)

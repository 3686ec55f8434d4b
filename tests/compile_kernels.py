"""Compiles every kernel for a GPU that need not be there, and prints how many fused multiply-adds each holds.

Run as a program, in a process where Triton does not interpret. A driver that only names the machine stands in for one,
and what would be launched is compiled instead; so the numbers that come out mean nothing.
"""

import json
import sys

import torch
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver
from triton.runtime.jit import JITFunction

from isospike.ops import FireRule, IntegerRule
from isospike.ops.firing import Firing
from isospike.ops.gpu.leaky_fire import leaky_fire
from isospike.ops.gpu.norm_fire import norm_fire
from isospike.ops.gpu.packed_conv import packed_conv
from isospike.surrogates import SURROGATES, Rectangle

RULES = [
    *(FireRule(surrogate=SURROGATES[name](), v_threshold=0.6, v_reset=-0.5) for name in SURROGATES),
    FireRule(higher=(2.0, 3.0), reset="subtract", strict=True, detach_reset=True),
    IntegerRule(detach_reset=False),
]
fused = {}


class NamedDriver:
    """Hopper, as far as the compiler needs to know."""

    def get_current_device(self):
        return 0

    def get_current_stream(self, device):
        return 0

    def get_current_target(self):
        return GPUTarget("cuda", 90, 32)


def compile_only(kernel, grid):
    """What stands for ``kernel[grid]``."""

    def launch(*args, **kwargs):
        compiled = kernel.warmup(*args, grid=grid, **kwargs)
        assert len(compiled.asm["cubin"]) > 0
        name = kernel.fn.__name__
        fused[name] = fused.get(name, 0) + compiled.asm["ptx"].count("fma.")

    return launch


def run_recurrence(rule, dtype, *, learned):
    """Both passes; with ``learned`` coefficients also from given potentials."""
    x = torch.zeros(4, 2, 1024, dtype=dtype, requires_grad=True)
    v = torch.zeros(rule.state_shape((2, 1024))) if learned else None
    decay, gain = (torch.tensor(c, requires_grad=True) if learned else c for c in (0.3, 0.7))
    s, end = leaky_fire(x, v, decay=decay, gain=gain, rule=rule)
    torch.autograd.backward([s, end], [s.detach(), end.detach()])


def run_norm_fire(firing, dtype, *, join):
    x = torch.zeros(4, 2, 16, 8, 8, dtype=dtype, requires_grad=True)
    weight, bias = torch.ones(16, requires_grad=True), torch.zeros(16, requires_grad=True)
    skip = torch.zeros(1, 2, 16, 8, 8, dtype=dtype, requires_grad=True) if join else None
    done = norm_fire(x, weight, bias, 1e-5, skip=skip, firing=firing, added=skip, keep=firing is None)
    outcome = done.u if firing is None else done.s
    outcome.backward(outcome.detach())


def run_packed_conv(rule):
    s, _ = leaky_fire(torch.zeros(2, 3, 8, 4, 4, requires_grad=True), None, decay=0.3, gain=0.7, rule=rule)
    y = packed_conv(torch.nn.Conv2d(8, 4, 3), s.flatten(0, 1))
    y.backward(y.detach())


if __name__ == "__main__":
    driver.set_active(NamedDriver())
    JITFunction.__getitem__ = compile_only
    for number, rule in enumerate(RULES):
        half = number % 2 == 1
        run_recurrence(rule, torch.bfloat16 if half else torch.float32, learned=half)
    run_norm_fire(None, torch.float32, join=False)
    run_norm_fire(Firing(0.25, 1.0, RULES[0]), torch.float32, join=False)
    run_norm_fire(Firing(0.25, torch.tensor(1.0, requires_grad=True), RULES[4]), torch.float16, join=True)
    masked = FireRule(surrogate=Rectangle(), detach_reset=True)
    run_norm_fire(Firing(0.25, 1.0, masked), torch.bfloat16, join=True)
    run_packed_conv(masked)
    json.dump(fused, sys.stdout)

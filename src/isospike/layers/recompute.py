"""Trade time for memory: keep what a stretch of layers reads, and compute the rest anew in the backward pass."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from math import isqrt

from torch import Tensor
from torch.utils.checkpoint import checkpoint

from isospike.layers.norm import statistics_known
from isospike.ops import asked_backend, use_backend
from isospike.registry import Registry

MEMORY: Registry[Callable[[int], int]] = Registry("memory")
"""By name: how many units of a stage of n are computed anew together; 0: none are.

n units in groups of k keep n/k inputs, and about three maps per unit while one group is computed anew: least where k is
the root of n/3.
"""
MEMORY.register("fast", lambda units: 0)
MEMORY.register("lean", lambda units: 1)
MEMORY.register("leanest", lambda units: max(1, isqrt(units // 3)))


def recomputed(run: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """``run(x)``, of which only ``x`` is kept: the backward pass runs it again, on the same backend.

    Running statistics move once. Gradients are those of ``run(x)`` to the last bit, as both runs give the same bits.
    """
    backend = asked_backend()
    return checkpoint(
        run, x, use_reentrant=False, preserve_rng_state=False, context_fn=lambda: (nullcontext(), _again(backend))
    )


@contextmanager
def _again(backend: str) -> Iterator[None]:
    with ExitStack() as stack:
        stack.enter_context(use_backend(backend))
        stack.enter_context(statistics_known())
        yield

"""Which code computes the recurrence: the reference, or a faster one that gives the same numbers."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

from torch import Tensor

from isospike.errors import ConfigError, IsospikeWarning
from isospike.ops import cpu, gpu, reference
from isospike.ops.rule import Rule
from isospike.registry import Registry, unknown_name


@dataclass(frozen=True)
class Backend:
    """One way to compute ``leaky_fire``.

    Args:
        name: As in ``use_backend``.
        run: ``run(x, v, decay=, gain=, rule=)``; shapes are checked, ``v`` None is rest.
        refusal: ``refusal(x, v, rule)``: why it cannot, as the end of a sentence, or None.
        device: The type of device that it is for, and the only one on which "auto" takes it; None: any.
    """

    name: str
    run: Callable[..., tuple[Tensor, Tensor]]
    refusal: Callable[[Tensor, Tensor | None, Rule], str | None]
    device: str | None


BACKENDS: Registry[Backend] = Registry("backend")
BACKENDS.register("cpu", Backend("cpu", cpu.leaky_fire, cpu.refusal, "cpu"))
BACKENDS.register("triton", Backend("triton", gpu.leaky_fire, gpu.refusal, "cuda"))
BACKENDS.register("reference", Backend("reference", reference.leaky_fire, lambda x, v, rule: None, None))

_asked = "auto"


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Compute with this backend inside the block: "auto" (the fastest that can), "cpu", "triton", "reference".

    Raises:
        UnknownName: no such backend.
    """
    global _asked
    if name != "auto" and name not in BACKENDS:
        raise unknown_name("backend", name, ["auto", *BACKENDS])
    before, _asked = _asked, name
    try:
        yield
    finally:
        _asked = before


def pick(x: Tensor, v: Tensor | None, rule: Rule) -> Backend:
    """The backend that is asked for, or with "auto" the first of the registry that can.

    Raises:
        ConfigError: one was asked for by name and cannot; the text says why.
    """
    if _asked == "auto":
        return next(backend for backend in _all() if _can(backend, x, v, rule))
    backend = BACKENDS[_asked]
    reason = backend.refusal(x, v, rule)
    if reason is not None:
        raise ConfigError(f"backend '{_asked}' cannot run this: {reason}")
    return backend


def _all() -> Iterator[Backend]:
    return (BACKENDS[name] for name in BACKENDS)


def _can(backend: Backend, x: Tensor, v: Tensor | None, rule: Rule) -> bool:
    if backend.device not in (None, x.device.type):
        return False
    reason = backend.refusal(x, v, rule)
    if reason is not None and "missing" in reason:
        _say_once(f"isospike runs the eager reference, several times slower, because {reason}")
    return reason is None


@cache
def _say_once(text: str) -> None:
    warnings.warn(text, IsospikeWarning, stacklevel=2)

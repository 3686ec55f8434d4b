"""Which code computes the recurrence: the reference, or a faster one that gives the same numbers."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

from torch import Tensor

from isospike.errors import ConfigError, IsospikeWarning
from isospike.ops import cpu, cpu_norm_fire, gpu, reference
from isospike.ops.firing import Firing, NormFired
from isospike.ops.rule import Rule
from isospike.registry import Registry, unknown_name


@dataclass(frozen=True)
class Fused:
    """One way to compute ``norm_fire`` in one pass.

    Args:
        run: ``run(x, weight, bias, eps, root_eps, skip=, firing=, added=, keep=)``.
        refusal: ``refusal(x, skip, added, firing)``: why it cannot, as the end of a sentence, or None.
    """

    run: Callable[..., NormFired]
    refusal: Callable[[Tensor, Tensor | None, Tensor | None, Firing | None], str | None]


@dataclass(frozen=True)
class Backend:
    """One way to compute ``leaky_fire``.

    Args:
        name: As in ``use_backend``.
        run: ``run(x, v, decay=, gain=, rule=)``; shapes are checked, ``v`` None is rest.
        refusal: ``refusal(x, v, rule)``: why it cannot, as the end of a sentence, or None.
        device: The type of device that it is for, and the only one on which "auto" takes it; None: any.
        fused: Its ``norm_fire``; None where norm, sum and neuron run one after the other.
    """

    name: str
    run: Callable[..., tuple[Tensor, Tensor]]
    refusal: Callable[[Tensor, Tensor | None, Rule], str | None]
    device: str | None = None
    fused: Fused | None = None


BACKENDS: Registry[Backend] = Registry("backend")
BACKENDS.register(
    "cpu", Backend("cpu", cpu.leaky_fire, cpu.refusal, "cpu", Fused(cpu_norm_fire.norm_fire, cpu_norm_fire.refusal))
)
BACKENDS.register(
    "triton", Backend("triton", gpu.leaky_fire, gpu.refusal, "cuda", Fused(gpu.norm_fire, gpu.refuses_norm_fire))
)
BACKENDS.register("reference", Backend("reference", reference.leaky_fire, lambda x, v, rule: None))

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


def asked_backend() -> str:
    """The name that ``use_backend`` was given last, "auto" outside of it."""
    return _asked


def takes(name: str, x: Tensor) -> bool:
    """Whether what is asked for includes this backend for ``x``: "auto" only on the type of device that it is for."""
    return _asked == name or (_asked == "auto" and BACKENDS[name].device in (None, x.device.type))


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


def pick_norm_fire(x: Tensor, skip: Tensor | None, added: Tensor | None, firing: Firing | None) -> Fused | None:
    """The fused pass of the backend that is asked for, with "auto" of the first that can; None where there is none."""
    fused = (BACKENDS[name].fused for name in BACKENDS if takes(name, x))
    return next((f for f in fused if f is not None and f.refusal(x, skip, added, firing) is None), None)


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

"""Which code computes the recurrence: the reference, or a faster one that gives the same numbers."""

import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

from torch import Tensor

from isospike.errors import ConfigError, IsospikeWarning
from isospike.ops import reference
from isospike.ops.cpu import leaky_fire as cpu
from isospike.ops.cpu import norm_fire as cpu_norm_fire
from isospike.ops.firing import Firing, NormFired
from isospike.ops.gpu import leaky_fire as gpu
from isospike.ops.gpu import norm_fire as gpu_norm_fire
from isospike.ops.memory import has_memory
from isospike.ops.rule import Rule
from isospike.registry import Registry, unknown_name


@dataclass(frozen=True)
class NormFire:
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
    fused: NormFire | None = None


BACKENDS: Registry[Backend] = Registry("backend")
BACKENDS.register(
    "cpu", Backend("cpu", cpu.leaky_fire, cpu.refusal, "cpu", NormFire(cpu_norm_fire.norm_fire, cpu_norm_fire.refusal))
)
BACKENDS.register(
    "triton",
    Backend("triton", gpu.leaky_fire, gpu.refusal, "cuda", NormFire(gpu_norm_fire.norm_fire, gpu_norm_fire.refusal)),
)
BACKENDS.register("reference", Backend("reference", reference.leaky_fire, lambda x, v, rule: None))


class _Asked(threading.local):
    """The backend that a thread asked for: a thread that switches does not switch the others."""

    def __init__(self) -> None:
        self.name = "auto"


_asked = _Asked()


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Compute with this backend inside the block: "auto" (the fastest that can), "cpu", "triton", "reference".

    It holds for the thread that enters the block. What "auto" leaves to the reference though a backend is for this
    device, it says once in a warning; a backend that is asked for by name computes all that it is for, or refuses.

    Raises:
        UnknownName: no such backend.
    """
    if name != "auto" and name not in BACKENDS:
        raise unknown_name("backend", name, ["auto", *BACKENDS])
    before, _asked.name = _asked.name, name
    try:
        yield
    finally:
        _asked.name = before


def asked_backend() -> str:
    """The name that ``use_backend`` was given last in this thread, "auto" outside of it."""
    return _asked.name


def takes(name: str, x: Tensor) -> bool:
    """Whether what is asked for includes this backend for ``x``: "auto" only on the type of device that it is for."""
    return _asked.name == name or (_asked.name == "auto" and BACKENDS[name].device in (None, x.device.type))


def pick(x: Tensor, v: Tensor | None, rule: Rule) -> Backend:
    """The backend that is asked for, or with "auto" the first of the registry that can.

    Raises:
        ConfigError: one was asked for by name and cannot; the text says why.
    """
    for name in BACKENDS:
        backend = BACKENDS[name]
        if takes(name, x) and not refuses(name, backend.refusal(x, v, rule), x):
            return backend
    raise AssertionError("the reference refuses nothing")


def pick_norm_fire(x: Tensor, skip: Tensor | None, added: Tensor | None, firing: Firing | None) -> NormFire | None:
    """The fused pass of the backend that is asked for, with "auto" of the first that can; None where there is none.

    Raises:
        ConfigError: as ``pick``.
    """
    for name in BACKENDS:
        fused = BACKENDS[name].fused
        if fused is not None and takes(name, x) and not refuses(name, fused.refusal(x, skip, added, firing), x):
            return fused
    return None


def refuses(name: str, reason: str | None, x: Tensor) -> bool:
    """Whether a backend that is taken for ``x`` has a reason not to run it, which is said once for every reason.

    Nothing is said where ``x`` is no plain tensor: who traces or transforms a network has left the backends.

    Raises:
        ConfigError: it was asked for by name.
    """
    if reason is None:
        return False
    if _asked.name == name:
        raise ConfigError(f"backend '{name}' cannot run this: {reason}")
    if has_memory(x):
        _say_once(f"backend '{name}' leaves this to the eager reference, several times slower, because {reason}")
    return True


@cache
def _say_once(text: str) -> None:
    warnings.warn(text, IsospikeWarning, stacklevel=2)

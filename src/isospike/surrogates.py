"""Surrogate gradients: what stands in for the derivative of the step function.

Each surrogate is a smooth ``primitive`` of the step and its exact ``derivative``; forward uses the step itself.
``u`` is the distance of the potential from the threshold.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from isospike.errors import ConfigError
from isospike.registry import Registry


class Kernel(NamedTuple):
    """How the backends other than the reference compute the derivative of a surrogate.

    Attributes:
        parameter: The option that they are given, a number.
        c: The number of the surrogate in ``ops/cpu/csrc/rule.h``.
        triton: The name of its function in ``ops/gpu/kernels/rule.py``.
    """

    parameter: str
    c: int
    triton: str


class Surrogate(ABC):
    """A sigmoid-shaped primitive of the step, rising from 0 to 1 around ``u = 0``, and its derivative.

    ``kernel`` says how backends other than the reference compute the derivative. It is not inherited, since a subclass
    may have another derivative; without it only the reference runs the surrogate.
    """

    kernel: ClassVar[Kernel | None] = None

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        cls.kernel = vars(cls).get("kernel")

    @abstractmethod
    def primitive(self, u: Tensor) -> Tensor:
        """Return the smooth step, in [0, 1]; same shape and dtype as ``u``."""

    @abstractmethod
    def derivative(self, u: Tensor) -> Tensor:
        """Return d primitive / d u, at least 0; finite for every finite ``u``, in half precision too."""


def _positive(name: str, value: float) -> None:
    if not value > 0:
        raise ConfigError(f"{name} must be greater than 0, got {value}")


@dataclass(frozen=True)
class Rectangle(Surrogate):
    """1/width where ``|u| < width/2``, else 0 (open interval).

    Source: Wu et al. 2018 (STBP), arXiv:1706.02609, first of the four curves.
    """

    width: float = 1.0
    kernel = Kernel("width", c=0, triton="rectangle")

    def __post_init__(self) -> None:
        _positive("width of the rectangle", self.width)

    def primitive(self, u: Tensor) -> Tensor:
        """Return clamp(u/width + 1/2, 0, 1)."""
        return (u / self.width + 0.5).clamp(0, 1)

    def derivative(self, u: Tensor) -> Tensor:
        """Return (1/width) [|u| < width/2]."""
        return (u.abs() < self.width / 2).to(u.dtype) / self.width


@dataclass(frozen=True)
class Arctan(Surrogate):
    """(alpha/2) / (1 + (pi/2 alpha u)^2); with alpha = 2 it is 1 / (1 + (pi u)^2).

    Source: Fang et al. 2021 (PLIF), arXiv:2007.05785; alpha = 2 in SEW-ResNet.
    """

    alpha: float = 2.0
    kernel = Kernel("alpha", c=1, triton="arctan")

    def __post_init__(self) -> None:
        _positive("alpha of the arctan", self.alpha)

    def primitive(self, u: Tensor) -> Tensor:
        """Return arctan(pi/2 alpha u) / pi + 1/2."""
        return (math.pi / 2 * self.alpha * u).atan() / math.pi + 0.5

    def derivative(self, u: Tensor) -> Tensor:
        """Return (alpha/2) / (1 + (pi/2 alpha u)^2); a square that overflows to infinity gives 0, as it should."""
        return self.alpha / 2 / (1 + (math.pi / 2 * self.alpha * u).square())


@dataclass(frozen=True)
class Sigmoid(Surrogate):
    """alpha s (1 - s) with s = sigmoid(alpha u).

    Source: Zenke and Ganguli 2018 and later use; no exponential is left open to overflow.
    """

    alpha: float = 4.0
    kernel = Kernel("alpha", c=2, triton="sigmoid")

    def __post_init__(self) -> None:
        _positive("alpha of the sigmoid", self.alpha)

    def primitive(self, u: Tensor) -> Tensor:
        """Return sigmoid(alpha u)."""
        return (self.alpha * u).sigmoid()

    def derivative(self, u: Tensor) -> Tensor:
        """Return alpha s (1 - s)."""
        s = self.primitive(u)
        return self.alpha * s * (1 - s)


@dataclass(frozen=True)
class Triangle(Surrogate):
    """max(0, 1 - |u|/gamma) / gamma.

    Source: Deng et al. 2022 (TET), arXiv:2202.11946; Bellec et al. 2018 use the same shape.
    """

    gamma: float = 1.0
    kernel = Kernel("gamma", c=3, triton="triangle")

    def __post_init__(self) -> None:
        _positive("gamma of the triangle", self.gamma)

    def primitive(self, u: Tensor) -> Tensor:
        """Return 1/2 + w - sign(w) w^2 / 2 with w = clamp(u/gamma, -1, 1)."""
        w = (u / self.gamma).clamp(-1, 1)
        return 0.5 + w - w * w.abs() / 2

    def derivative(self, u: Tensor) -> Tensor:
        """Return max(0, 1 - |u|/gamma) / gamma."""
        return (1 - u.abs() / self.gamma).clamp_min(0) / self.gamma


SURROGATES: Registry[type[Surrogate]] = Registry("surrogate")
for _surrogate in (Rectangle, Arctan, Sigmoid, Triangle):
    SURROGATES.register(_surrogate.__name__.lower(), _surrogate)


class _Fire(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(u: Tensor, surrogate: Surrogate, strict: bool) -> Tensor:
        return (u > 0 if strict else u >= 0).to(u.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Surrogate, bool], output: Tensor) -> None:
        u, ctx.surrogate, _ = inputs
        ctx.save_for_backward(u)
        ctx.save_for_forward(u)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (u,) = ctx.saved_tensors
        return grads[0] * ctx.surrogate.derivative(u), None, None


class _FireForward(_Fire):
    """The step function with forward mode as well, which torch.compile does not take."""

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor) -> Tensor:
        (u,) = ctx.saved_tensors
        return tangents[0] * ctx.surrogate.derivative(u)


def fire(u: Tensor, surrogate: Surrogate, *, strict: bool) -> Tensor:
    """Compute the step function with a surrogate gradient.

    Args:
        u: Potential minus threshold, any shape.
        surrogate: Gives d s / d u in the backward pass.
        strict: Fire where ``u > 0``; otherwise where ``u >= 0``.

    Returns:
        Spikes in {0, 1}, same shape and dtype as ``u``.
    """
    function = _Fire if torch.compiler.is_compiling() else _FireForward
    return function.apply(u, surrogate, strict)


class _FireInteger(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(u: Tensor, levels: int) -> Tensor:
        return u.clamp(0, levels).round()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, int], output: Tensor) -> None:
        u, ctx.levels = inputs
        ctx.save_for_backward(u)
        ctx.save_for_forward(u)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (u,) = ctx.saved_tensors
        return grads[0] * slope_integer(u, ctx.levels), None


class _FireIntegerForward(_FireInteger):
    """The rounding with forward mode as well."""

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor) -> Tensor:
        (u,) = ctx.saved_tensors
        return tangents[0] * slope_integer(u, ctx.levels)


def slope_integer(u: Tensor, levels: int) -> Tensor:
    """Return the stand-in for the derivative of ``fire_integer``: 1 where ``0 <= u <= levels``, else 0."""
    return ((u >= 0) & (u <= levels)).to(u.dtype)


def fire_integer(u: Tensor, levels: int) -> Tensor:
    """Round to the nearest integer in {0, ..., levels}, half to even, with gradient 1 where ``0 <= u <= levels``.

    Args:
        u: Potential in thresholds, any shape.
        levels: The largest integer.

    Returns:
        Same shape and dtype as ``u``.
    """
    function = _FireInteger if torch.compiler.is_compiling() else _FireIntegerForward
    return function.apply(u, levels)

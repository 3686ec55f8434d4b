"""Block dynamical isometry: phi and varphi of every residual unit, over time and space together."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import Any

import torch
from torch import Tensor, nn

from isospike.analysis.expected import expected_moments, layers_seen
from isospike.analysis.instrument import entrances, runs_as_its_row
from isospike.analysis.probes import Estimate, Map, probe, signs
from isospike.analysis.theory import Moments
from isospike.analysis.untouched import in_training_mode
from isospike.errors import ConfigError
from isospike.layers import BatchNorm, Chain, PerStepNorm, Steps
from isospike.models import SpikingNetwork, SpikingResNet
from isospike.residual import ResidualUnit, Stage
from isospike.seeding import derive_seed


@dataclass(frozen=True)
class UnitIsometry:
    """The Jacobian J of one unit, from the stream that it reads to the one that it puts out, all time steps in both.

    Args:
        name: In the model.
        stage: Counted from 1.
        index: Of the unit among all, from 1.
        size: Outputs m for one image over all steps.
        projects: Whether its skip changes the shape.
        adds: Whether it adds its branch to a stream that nothing else touches.
        tail: Mean size of the weights of the norm that ends its branch, where one does.
        phi: Mean of the eigenvalues of ``J J^T``.
        varphi: Their variance.
        expected: Both, by the rules of the theory; None where they say nothing.
    """

    name: str
    stage: int
    index: int
    size: int
    projects: bool
    adds: bool
    tail: float | None
    phi: Estimate
    varphi: Estimate
    expected: Moments | None

    @property
    def log10_phi(self) -> float:
        """The logarithm of phi; minus infinity where no gradient passes."""
        return math.log10(self.phi.value) if self.phi.value else -math.inf

    def as_dict(self) -> dict[str, Any]:
        """Return all of it as plain values, for JSON."""
        plain = {key: getattr(self, key) for key in ("name", "stage", "index", "size", "projects", "adds", "tail")}
        expected = None if self.expected is None else self.expected._asdict()
        return {**plain, "phi": self.phi.as_dict(), "varphi": self.varphi.as_dict(), "expected": expected}


def measure_isometry(
    model: SpikingNetwork, images: Tensor, *, T: int | None = None, probes: int = 4, seed: int = 0
) -> list[UnitIsometry]:
    """Measure phi and varphi of every residual unit of ``model`` on these images.

    The network runs forward without a graph; at every unit only that unit's graph is built, probed and dropped, so
    memory does not grow with depth. Norms take the statistics of the batch, and everything is left as it was.

    Args:
        model: Trained or not.
        images: Normalised ``[B, C, H, W]`` or ``[T, B, C, H, W]``.
        T: Time steps for static images; the model's own where it is not given. They are copied to T steps, so that J
            is that of a stream of T steps in the first unit too.
        probes: Random sign vectors per unit; from 2 on there are intervals.
        seed: Of the signs.

    Returns:
        One ``UnitIsometry`` per unit, from the stem to the head. What joins a stage besides its units (links, a pool,
        a layer that widens it) is in none of them.

    Raises:
        ConfigError: no residual unit, images or streams that are not finite, fewer than one probe.
    """
    _check_probes(probes)
    if not isinstance(model, SpikingResNet):
        raise ConfigError(
            f"a {type(model).__name__} holds no residual units that this would find: "
            "measure_isometry_of takes a list of modules"
        )
    clip, steps = as_clip(model, images, T)
    found: list[UnitIsometry] = []

    def measure(place: "_Place", x: Tensor) -> None:
        found.append(_measure(place, x, probes, seed)[0])

    with in_training_mode([model]), torch.no_grad():
        places = _places(model, Steps(steps))
        hooks = [hook for unit, place in places for hook in place.call_before(unit, measure)]
        try:
            model.forward_features(clip)
        finally:
            for hook in hooks:
                hook.remove()
    return found


def measure_isometry_of(
    modules: Sequence[nn.Module] | Mapping[str, nn.Module], x: Tensor, *, probes: int = 4, seed: int = 0
) -> list[UnitIsometry]:
    """Measure the same of any modules in a row, each fed with what the one before puts out.

    Args:
        modules: Each a function of one tensor; units and chains of isospike get the number of their steps too.
        x: What the first one reads, such as ``[T, B, C, H, W]``.
        probes: As of ``measure_isometry``.
        seed: Likewise.

    Raises:
        ConfigError: no modules, an input that is not finite, fewer than one probe.
    """
    _check_probes(probes)
    named = modules if isinstance(modules, Mapping) else {str(index): module for index, module in enumerate(modules)}
    if not named:
        raise ConfigError("there are no modules to measure: the list is empty")
    found = []
    with in_training_mode(named.values()), torch.no_grad():
        for index, (name, module) in enumerate(named.items(), start=1):
            unit = module if runs_as_its_row(module) else None
            timed = isinstance(module, ResidualUnit | Chain)
            place = _Place(name, 1, index, unit, partial(_with_steps, module) if timed else module)
            measured, x = _measure(place, x, probes, seed)
            found.append(measured)
    return found


def log10_product(units: Sequence[UnitIsometry]) -> Estimate:
    """Return log10 of the product of phi over all units: the growth of a gradient's square from last to first.

    Its interval takes the units' probes as independent, which they are.
    """
    total = sum(unit.log10_phi for unit in units)
    errors = [unit.phi.error for unit in units]
    if not math.isfinite(total) or any(error is None for error in errors):
        return Estimate(total, None)
    relative = ((error or 0.0) / unit.phi.value for unit, error in zip(units, errors, strict=True))
    return Estimate(total, math.sqrt(sum(share**2 for share in relative)) / math.log(10))


def as_clip(model: SpikingNetwork, images: Tensor, T: int | None) -> tuple[Tensor, int]:
    """Return images ``[T, B, C, H, W]``, static ones repeated without a copy.

    Raises:
        ConfigError: they hold a number that is not finite.
    """
    if not images.isfinite().all():
        raise ConfigError("the images hold numbers that are not finite: no verdict on what flows would mean anything")
    if images.dim() != 4:
        return images, images.shape[0]  # the model says what is wrong with any other shape
    steps = model.T if T is None else T
    return images.expand(max(steps, 1), *images.shape), steps


@dataclass(frozen=True)
class _Place:
    """A unit in its network, and the map whose Jacobian is meant."""

    name: str
    stage: int
    index: int
    unit: ResidualUnit | None  # one of another class is a map, and nothing more is known of it
    unit_map: Map
    weighs: bool = False  # branch and skip are not simply added, and the theory says nothing of it

    def call_before(
        self, unit: ResidualUnit, measure: Callable[["_Place", Tensor], None]
    ) -> list[torch.utils.hooks.RemovableHandle]:
        """Call ``measure`` once, with what the unit reads."""

        def look(_: nn.Module, inputs: tuple[Tensor, Steps]) -> None:
            for handle in handles:
                handle.remove()  # measuring runs the unit again
            measure(self, inputs[0])

        handles = [module.register_forward_pre_hook(look) for module in entrances(unit)]
        return handles


def _places(model: SpikingResNet, steps: Steps) -> Iterator[tuple[ResidualUnit, _Place]]:
    indices = count(1)
    for number, stage in enumerate(model.stages):
        assert isinstance(stage, Stage)
        for within, (unit, unit_map) in enumerate(stage.maps(steps)):
            name = f"stages.{number}.{within}"
            known = unit if runs_as_its_row(unit) else None
            yield unit, _Place(name, number + 1, next(indices), known, unit_map, weighs=stage.sum is not None)


def _with_steps(module: nn.Module, x: Tensor) -> Tensor:
    return module(x, Steps(x.shape[0]))


def _measure(place: _Place, x: Tensor, probes: int, seed: int) -> tuple[UnitIsometry, Tensor]:
    """Measure a unit that reads ``x``, and return what it puts out as well."""
    if not x.isfinite().all():
        raise ConfigError(f"what {place.name} reads holds numbers that are not finite: no verdict would mean anything")
    generator = torch.Generator().manual_seed(derive_seed(seed, place.index))
    unit = place.unit
    with layers_seen(unit) as seen:
        probed = probe(place.unit_map, x, lambda y: (signs(y, generator) for _ in range(probes)))
    if not all(math.isfinite(value) for value in (*probed.first, *probed.second)):
        raise ConfigError(f"the gradient through {place.name} is not finite: no verdict on it would mean anything")
    y = probed.output
    measured = UnitIsometry(
        name=place.name,
        stage=place.stage,
        index=place.index,
        size=y.numel() // (y.shape[1] if y.dim() > 2 else 1),
        projects=x.shape != y.shape if unit is None else unit.projects,
        adds=unit is not None and _adds(unit),
        tail=None if unit is None else _tail(unit),
        phi=probed.phi(),
        varphi=probed.varphi(),
        expected=None if unit is None or place.weighs else expected_moments(unit, seen),
    )
    return measured, y


def _adds(unit: ResidualUnit) -> bool:
    return unit.join is not None and unit.join.linear and not [*unit.after.children()]


def _tail(unit: ResidualUnit) -> float | None:
    """Return the mean size of the factors of the norm behind the last convolution of the branch."""
    tail = None
    for layer in unit.branch.children():
        if isinstance(layer, nn.Conv2d):
            tail = None
        elif isinstance(layer, BatchNorm | PerStepNorm):
            tail = layer
    if tail is None:
        return None
    norms = [norm for norm in tail.modules() if isinstance(norm, BatchNorm)]
    return sum(norm.weight.detach().abs().mean().item() * abs(norm.scale) for norm in norms) / len(norms)


def _check_probes(probes: int) -> None:
    if probes < 1:
        raise ConfigError(f"probes must be at least 1, got {probes}")

"""What the isometry of a network says in words: rows of a rule, its threshold, its sentence and its reason."""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from isospike.analysis.gradients import GradientNorms
from isospike.analysis.isometry import UnitIsometry, log10_product
from isospike.analysis.probes import Estimate

CHEN = "Chen et al. 2020, arXiv:2001.00254: gradients keep their norm where every phi is near 1"
HU = "Hu et al. 2024, arXiv:2112.08954: a unit that adds has phi = 1 + zeta^2 phi(inner), zeta its last norm's weight"
DECADE = 1.0  # of log10 of the product of phi; chosen: gradients a factor of 3.2 apart in length
TAIL = 0.1  # the largest start of a last norm that its authors used
SPREAD = 1.0  # of varphi over phi^2: the eigenvalues scatter as widely as those of a random square matrix
RATIO = 10.0  # between the ends of the network, of the norm of the gradient of the loss
APART = (
    "counted apart: there are as many as stages whatever the depth, and shrinking a map alone costs them that much, "
    "an average over k x k pixels phi = 1/k^2 (theory.average_pool)"
)
LEARNED = (
    "chosen: the theory speaks of the start, and phi weighs all directions alike. Learning opens the few that the loss "
    f"takes, so of a trained network its gradient decides; limit a factor of {RATIO:g}, as for the note on it"
)


@dataclass(frozen=True)
class Depth:
    """The measurements that the rules of the verdict look at.

    Args:
        units: From the stem to the head.
        gradients: Of the loss, where they were taken.
        trained: Whether the weights have been trained.
    """

    units: Sequence[UnitIsometry]
    gradients: GradientNorms | None = None
    trained: bool = False

    @property
    def kept(self) -> list[UnitIsometry]:
        """The units that keep their shape, which are what depth repeats; all of them where none does."""
        return [unit for unit in self.units if not unit.projects] or list(self.units)

    @property
    def projections(self) -> list[UnitIsometry]:
        """The units that change the shape."""
        return [unit for unit in self.units if unit.projects and len(self.kept) < len(self.units)]

    @property
    def product(self) -> Estimate:
        """log10 of the product of phi over the units that keep their shape."""
        return log10_product(self.kept)

    @property
    def back(self) -> list[float]:
        """log10 of that product from each unit to the last: the growth of a gradient's square till it comes out."""
        sums, total = [], 0.0
        for unit in reversed(self.kept):
            total += unit.log10_phi
            sums.append(total)
        return sums[::-1]

    @property
    def over(self) -> str:
        """The number of units that the product is over."""
        n = len(self.kept)
        if not self.projections:
            return f"{n} units"
        return f"the {n} units that keep their shape" if n > 1 else "the unit that keeps its shape"

    def first_beyond(self, limit: float) -> int:
        """Return the unit, counted from 1, at which a gradient on its way back leaves the limit; above it, or below."""
        beyond = [u.index for u, b in zip(self.kept, self.back, strict=True) if (b > limit if limit > 0 else b < limit)]
        return max(beyond)

    @property
    def tail(self) -> float | None:
        """Median weight of the last norms of units that add to an untouched stream."""
        tails = [unit.tail for unit in self.units if unit.adds and unit.tail is not None]
        return median(tails) if tails else None

    @property
    def spread(self) -> float:
        """Median of varphi over phi^2."""
        return median(unit.varphi.value / unit.phi.value**2 for unit in self.units if unit.phi.value)

    @property
    def gradient_ratio(self) -> float | None:
        """Norm of the loss gradient that the first unit reads over that of the last; None where one has none."""
        norms = [] if self.gradients is None else [*self.gradients.inputs.values()]
        return norms[0] / norms[-1] if norms and norms[0] and norms[-1] else None


@dataclass(frozen=True)
class Rule:
    """A rule of the verdict.

    Args:
        name: In JSON.
        holds: Whether it applies.
        says: The sentence.
        reason: Where threshold and rule come from.
    """

    name: str
    holds: Callable[[Depth], bool]
    says: Callable[[Depth], str]
    reason: str


def _dead(depth: Depth) -> str:
    dead = next(unit for unit in depth.units if not unit.phi.value)
    return f"no gradient passes unit {dead.index} of {len(depth.units)} ({dead.name}): its Jacobian is 0 here"


def _explodes(depth: Depth) -> str:
    return (
        f"gradient explodes: on its way back its square has grown tenfold at unit {depth.first_beyond(DECADE)} of "
        f"{len(depth.units)}, and 10^{depth.back[0]:.2f}-fold in front of the first"
    )


def _vanishes(depth: Depth) -> str:
    return (
        f"gradient vanishes: on its way back its square has fallen to a tenth at unit {depth.first_beyond(-DECADE)} of "
        f"{len(depth.units)}, and to 10^{depth.back[0]:.2f} in front of the first"
    )


def _trains(depth: Depth) -> str:
    return (
        f"trains at this depth: log10 of the product of phi over {depth.over} is "
        f"{depth.product.value:.2f}, and never beyond -{DECADE:g} and {DECADE:g} on the way"
    )


def _arrives(depth: Depth) -> str:
    return (
        f"has learned at this depth, and gradients arrive: that of the loss is {depth.gradient_ratio:.2g} times as "
        f"long before the first unit as before the last, whatever the mean over all directions says (log10 of the "
        f"product of phi over {depth.over} is {depth.product.value:.2f})"
    )


def _beyond(depth: Depth) -> bool:
    return max(depth.back) > DECADE or min(depth.back) < -DECADE


def _explode(depth: Depth) -> bool:
    back = depth.back
    grown = max(back) > DECADE and max(back) >= -min(back)
    return grown and (not depth.trained or depth.gradient_ratio is None or depth.gradient_ratio > RATIO)


def _vanish(depth: Depth) -> bool:
    fallen = min(depth.back) < -DECADE and max(depth.back) < -min(depth.back)
    return fallen and (not depth.trained or depth.gradient_ratio is None or depth.gradient_ratio < 1 / RATIO)


def _log10_of_projections(depth: Depth) -> float:
    return log10_product(depth.projections).value


# The first that holds is the verdict.
VERDICTS = (
    Rule("dead", lambda d: any(not unit.phi.value for unit in d.units), _dead, CHEN),
    Rule("explodes", _explode, _explodes, CHEN),
    Rule("vanishes", _vanish, _vanishes, CHEN),
    Rule("arrives", _beyond, _arrives, LEARNED),
    Rule("trains", lambda d: True, _trains, CHEN),
)

# All that hold are said behind it.
NOTES = (
    Rule(
        "large_tail",
        lambda d: _explode(d) and not d.trained and d.tail is not None and d.tail > TAIL,
        lambda d: f"the last norms of the units stand at {d.tail:.2g}; starting them at 0 or {TAIL:g} would keep it",
        HU,
    ),
    Rule(
        "gated_stream",
        lambda d: _vanish(d) and not any(unit.adds for unit in d.units),
        lambda d: (
            "every unit ends the stream in a neuron, which multiplies the gradient by its open share; units that "
            "add to an untouched stream keep it"
        ),
        "derived in theory.gated_unit: phi = p (1 + phi(branch))",
    ),
    Rule(
        "projections",
        lambda d: abs(_log10_of_projections(d)) > DECADE,
        lambda d: (
            f"the units that change the shape ({len(d.projections)}) multiply a gradient's square by "
            f"10^{_log10_of_projections(d):.2f} besides"
        ),
        APART,
    ),
    Rule(
        "uncertain",
        lambda d: d.product.error is not None and abs(abs(d.product.value) - DECADE) < d.product.error,
        lambda d: (
            f"by the probes log10 of the product is between {d.product.low:.2f} and {d.product.high:.2f}, on both "
            "sides of the limit: take more"
        ),
        "95 % interval of the probes",
    ),
    Rule(
        "spread",
        lambda d: not any(not unit.phi.value for unit in d.units) and d.spread > SPREAD,
        lambda d: (
            f"phi is a mean: the median of varphi / phi^2 is {d.spread:.2g}, so some directions are passed on "
            "far more than others"
        ),
        "Chen et al. 2020: isometry asks for varphi near 0 as well; a random square matrix has 1",
    ),
    Rule(
        "loss_gradient",
        lambda d: d.gradient_ratio is not None and not 1 / RATIO <= d.gradient_ratio <= RATIO,
        lambda d: (
            f"the gradient of the loss is {d.gradient_ratio:.2g} times as long before the first unit as before the last"
        ),
        "one real backward; phi weighs all directions alike, the loss takes few",
    ),
)


@dataclass(frozen=True)
class Said:
    """A rule that held: its name, its sentence, its reason."""

    rule: str
    text: str
    reason: str


@dataclass(frozen=True)
class Verdict:
    """What was found, and what there is to add."""

    main: Said
    notes: tuple[Said, ...]

    def __str__(self) -> str:
        return "; ".join(said.text for said in (self.main, *self.notes))

    def as_dict(self) -> dict[str, Any]:
        """Return all of it as plain values, for JSON."""
        return {**asdict(self.main), "notes": [asdict(note) for note in self.notes]}


def judge(units: Sequence[UnitIsometry], gradients: GradientNorms | None = None, *, trained: bool = False) -> Verdict:
    """Judge a network by what was measured of it.

    Args:
        units: Of ``measure_isometry``.
        gradients: Of ``gradient_norms``.
        trained: Whether its weights have been trained: then the gradient of the loss has the last word, if it was
            measured.
    """
    depth = Depth(units, gradients, trained)
    main = next(rule for rule in VERDICTS if rule.holds(depth))
    notes = [rule for rule in NOTES if rule.holds(depth)] if math.isfinite(log10_product(units).value) else []
    said = [Said(rule.name, rule.says(depth), rule.reason) for rule in (main, *notes)]
    return Verdict(said[0], tuple(said[1:]))

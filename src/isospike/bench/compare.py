"""Whether two contestants compute the same.

Neurons are compared to the last bit, on inputs where no rounding happens. Networks cannot be: convolutions add in
different orders, and where a potential lies within the last bit of the threshold one network fires and the other
does not; twenty layers on, gradients of the two point elsewhere. So a network is compared twice. In float64, on a few
images, a last bit is so small that practically no spike turns: logits, loss and every gradient must agree closely,
which proves that both are the same function. In the precision that is timed, what turned spikes leave alone must
agree: the direction of the logits, the loss, and the length of every gradient.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

Outputs = Mapping[str, Tensor]

FLOAT64_ERROR = 1e-5  # of the largest value of each tensor; some peers' spikes pass through float32
ZERO_GRADIENT = 1e-3  # of the largest gradient: what is smaller is compared as if it were as large
# Against what is broken altogether in the timed precision: 0.89 was seen between two ms_resnet18 that agree to 4e-15 in
# float64. It is float64 that tells functions apart.
LOGITS_COSINE = 0.8
LOSS_ERROR = 0.05
LENGTH_RATIO = 1.5


@dataclass(frozen=True)
class Check:
    """One comparison: it holds where ``value`` is at least, or at most, its limit."""

    what: str
    value: float
    limit: float
    at_least: bool = False

    @property
    def holds(self) -> bool:
        """Whether the value is within its limit; NaN never is."""
        return self.value >= self.limit if self.at_least else self.value <= self.limit

    def as_dict(self) -> dict[str, Any]:
        """Return all of it as plain values, for JSON."""
        return {**asdict(self), "holds": self.holds}

    def __str__(self) -> str:
        return f"{self.what} {self.value:.3g}, {'at least' if self.at_least else 'at most'} {self.limit:g} allowed"


def exactly(ours: Outputs, theirs: Outputs) -> list[Check]:
    """Count the values that differ, of every tensor."""
    return [
        Check(f"differing values of {name}", float((mine != yours).sum()), 0.0)
        for name, mine, yours in _pairs(ours, theirs)
    ]


def closely(ours: Outputs, theirs: Outputs) -> list[Check]:
    """Find the largest difference of any tensor, as a share of that tensor's largest value.

    A gradient that is 0 but for rounding, as that of a bias before a norm, is held against the largest gradient.
    """
    pairs = _pairs(ours, theirs)
    grads = [float(yours.abs().max()) for name, _, yours in pairs if name.startswith("grad ")]
    least = ZERO_GRADIENT * max(grads, default=0.0)
    errors = {name: _error(mine, yours, least if name.startswith("grad ") else 0.0) for name, mine, yours in pairs}
    worst = max(errors, key=lambda name: _or_infinite(errors[name]))
    return [Check(f"float64: difference of {worst}", errors[worst], FLOAT64_ERROR)]


def alike(ours: Outputs, theirs: Outputs) -> list[Check]:
    """Compare logits by cosine; in training the loss, and the most unequal length of a convolution's gradient."""
    pairs = {name: (mine, yours) for name, mine, yours in _pairs(ours, theirs)}
    checks = [Check("cosine of logits", _cosine(*pairs["logits"]), LOGITS_COSINE, at_least=True)]
    if "loss" in pairs:
        checks.append(Check("difference of loss", _error(*pairs["loss"]), LOSS_ERROR))
        ratios = {name: _ratio(*pair) for name, pair in pairs.items() if pair[0].dim() == 4}
        worst = max(ratios, key=lambda name: _or_infinite(ratios[name]))
        checks.append(Check(f"ratio of lengths of {worst}", ratios[worst], LENGTH_RATIO))
    return checks


def _pairs(ours: Outputs, theirs: Outputs) -> list[tuple[str, Tensor, Tensor]]:
    """Yield tensors of one name in float64; a name or a shape of only one side is compared as infinitely far."""
    found = []
    for name in sorted(ours.keys() | theirs.keys()):
        mine, yours = ours.get(name), theirs.get(name)
        if mine is None or yours is None or mine.shape != yours.shape:
            mine, yours = torch.tensor(torch.inf), torch.tensor(0.0)
        found.append((name, mine.double(), yours.double()))
    return found


def _error(mine: Tensor, yours: Tensor, least: float = 0.0) -> float:
    return float((mine - yours).abs().max() / yours.abs().max().clamp_min(max(least, 1e-30)))


def _cosine(mine: Tensor, yours: Tensor) -> float:
    return float(torch.dot(mine.flatten(), yours.flatten()) / (mine.norm() * yours.norm()))


def _ratio(mine: Tensor, yours: Tensor) -> float:
    """Return the ratio of the longer to the shorter."""
    lengths = sorted((float(mine.norm()), float(yours.norm())))
    return lengths[1] / lengths[0] if lengths[0] else float("inf")


def _or_infinite(value: float) -> float:
    return float("inf") if value != value else value

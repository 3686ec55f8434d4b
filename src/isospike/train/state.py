"""Where a run is: everything beside tensors that a resumed run must know."""

from dataclasses import asdict, dataclass, field
from typing import Any

from pydantic import NonNegativeInt


@dataclass
class Sums:
    """Loss and hits over some images, and how many of their steps were left out because of what was not finite."""

    loss: float = 0.0
    correct: float = 0.0
    images: float = 0.0
    left_out: NonNegativeInt = 0

    def add(self, loss: float, correct: float, images: float, *, left_out: bool) -> None:
        """Add those of one step; ``loss`` is summed over its images."""
        self.loss += loss
        self.correct += correct
        self.images += images
        self.left_out += left_out

    def means(self) -> dict[str, float]:
        """Return the loss and the accuracy per image, and the number of steps left out."""
        return {"loss": self.loss / self.images, "accuracy": self.correct / self.images, "left_out": self.left_out}


@dataclass
class Best:
    """The epoch of highest test accuracy so far."""

    accuracy: float = -1.0
    epoch: NonNegativeInt = 0


@dataclass
class RunState:
    """Where a run stands: its position and running sums.

    Args:
        step: Optimiser steps done.
        epoch: Epochs whose test has been done.
        batch: Batches of the current epoch done.
        seconds: Time spent in training steps.
        left_out: Steps that have moved nothing, as their fp16 gradient was not finite.
        window: Sums since the last logged step.
        this_epoch: Sums of the current epoch.
        best: Best test so far.
        last_accuracy: Test accuracy after the last whole epoch; None before the first.
        metrics_size: Bytes of ``metrics.jsonl`` that belong to this state.
        flow_size: Likewise of ``flow.jsonl``.
        scaler: State of the fp16 gradient scaler.
    """

    step: NonNegativeInt = 0
    epoch: NonNegativeInt = 0
    batch: NonNegativeInt = 0
    seconds: float = 0.0
    left_out: NonNegativeInt = 0
    window: Sums = field(default_factory=Sums)
    this_epoch: Sums = field(default_factory=Sums)
    best: Best = field(default_factory=Best)
    last_accuracy: float | None = None
    metrics_size: NonNegativeInt = 0
    flow_size: NonNegativeInt = 0
    scaler: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Return all of it as plain values, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "RunState":
        """Read what ``as_dict`` gave."""
        nested = {"window": Sums, "this_epoch": Sums, "best": Best}
        return cls(**{key: nested[key](**value) if key in nested else value for key, value in values.items()})

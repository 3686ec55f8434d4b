"""Mean and variance per channel: how those of two sets are joined, and when running statistics move."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import reduce
from typing import Protocol, Self

from torch import Tensor


@dataclass(frozen=True)
class Statistics:
    """Mean and unbiased variance ``[C]`` of ``count`` values per channel; ``count`` may be a 0-d tensor."""

    count: int | Tensor
    mean: Tensor
    var: Tensor

    @classmethod
    def from_biased(cls, count: int, mean: Tensor, var: Tensor) -> Self:
        """Take the biased variance; that of a single value is 0, and so is the unbiased one then."""
        return cls(count, mean, var * (count / max(count - 1, 1)))

    @property
    def biased_var(self) -> Tensor:
        """The mean squared distance from the mean, ``[C]``."""
        return self.var * (1 - 1 / self.count)

    def join(self, other: "Statistics") -> "Statistics":
        """Join the statistics of both sets of values into one (Chan et al. 1979)."""
        count = self.count + other.count
        delta = other.mean - self.mean
        squares = self.var * (self.count - 1) + other.var * (other.count - 1)
        squares = squares + delta.square() * (self.count * other.count / count)
        return Statistics(count, self.mean + delta * (other.count / count), squares / (count - 1))


class Running(Protocol):
    """A layer with running statistics."""

    def move(self, batch: Statistics, where: Tensor | None) -> None:
        """Let them move towards those of a batch, where the 0-d bool says so; None: it does."""


class HeldStatistics:
    """Statistics of batches that the running statistics have not taken up yet."""

    def __init__(self) -> None:
        self._batches: dict[Running, list[Statistics]] = {}

    def add(self, layer: Running, batch: Statistics) -> None:
        """Keep those of one more batch."""
        self._batches.setdefault(layer, []).append(batch)

    def release(self, where: Tensor | None = None) -> None:
        """Let the running ones move once, by the joint statistics of all batches.

        Args:
            where: A 0-d bool: whether they move at all. It is looked at on its device, and nobody waits; None: they do.
        """
        for layer, batches in self._batches.items():
            layer.move(reduce(Statistics.join, batches), where)


class _Here(threading.local):
    """The state of a thread: what it does with statistics."""

    def __init__(self) -> None:
        self.held: HeldStatistics | None = None
        self.known = False


_here = _Here()


def take_up(layer: Running, batch: Statistics) -> None:
    """Let the running statistics of a layer move towards those of a batch, now or when those held are released."""
    if _here.known:
        return
    if _here.held is None:
        layer.move(batch, None)
    else:
        _here.held.add(layer, batch)


@contextmanager
def statistics_held() -> Iterator[HeldStatistics]:
    """Hold back what the forwards of this thread inside the block find, until it is released."""
    before, _here.held = _here.held, HeldStatistics()
    try:
        yield _here.held
    finally:
        _here.held = before


@contextmanager
def statistics_known() -> Iterator[None]:
    """Let no forward of this thread inside the block move running statistics: it repeats one that did."""
    before, _here.known = _here.known, True
    try:
        yield
    finally:
        _here.known = before


@contextmanager
def one_statistics_update() -> Iterator[None]:
    """Let all forwards of this thread inside the block move the running statistics once, by their joint statistics.

    For gradient accumulation: the running statistics then move as they would for the undivided batch. Where the block
    fails they stay.
    """
    with statistics_held() as held:
        yield
    held.release()

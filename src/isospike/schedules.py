"""Schedules: the learning rate at every step of a run."""

import math
from abc import ABC, abstractmethod
from typing import Literal

from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt

from isospike.spec import Kinds, Spec


class ScheduleSpec(Spec, ABC):
    """The ``schedule`` of a run: a linear warm-up of ``warmup_epochs``, then what the row does."""

    kind: str
    warmup_epochs: NonNegativeFloat = 0.0

    def learning_rate(self, lr: float, step: int, steps_per_epoch: int, epochs: int) -> float:
        """Compute the learning rate of an optimiser step.

        Args:
            lr: The highest, which the warm-up reaches at its last step.
            step: Number of the step, counted from 0.
            steps_per_epoch: Optimiser steps of an epoch.
            epochs: Epochs of the run.
        """
        warmup = round(self.warmup_epochs * steps_per_epoch)
        if step < warmup:
            return lr * (step + 1) / warmup
        return self.after_warmup(lr, step, warmup, steps_per_epoch, epochs)

    @abstractmethod
    def after_warmup(self, lr: float, step: int, warmup: int, steps_per_epoch: int, epochs: int) -> float:
        """Compute the learning rate of a step behind the ``warmup`` first ones; arguments as ``learning_rate``."""


SCHEDULES: Kinds[ScheduleSpec] = Kinds("schedule")


@SCHEDULES.add
class CosineSchedule(ScheduleSpec):
    """Goes from lr to ``min_lr`` along half a cosine, after a linear warm-up; it changes every step or every epoch.

    Like the sources' it never spends a step at its end value: with ``n`` changes the k-th is at ``k/n`` of the half
    period.
    """

    kind: Literal["cosine"]
    min_lr: NonNegativeFloat = 0.0
    every: Literal["step", "epoch"] = "step"

    def after_warmup(self, lr: float, step: int, warmup: int, steps_per_epoch: int, epochs: int) -> float:
        """Follow the cosine over what the warm-up leaves."""
        unit = steps_per_epoch if self.every == "epoch" else 1
        past = (step // unit - warmup // unit) / max(1, (epochs * steps_per_epoch) // unit - warmup // unit)
        return self.min_lr + (lr - self.min_lr) * (1 + math.cos(math.pi * past)) / 2


@SCHEDULES.add
class StepSchedule(ScheduleSpec):
    """Multiplies lr by ``gamma`` at every milestone (in epochs), after a linear warm-up."""

    kind: Literal["steps"]
    milestones: tuple[PositiveInt, ...]
    gamma: PositiveFloat = 0.1

    def after_warmup(self, lr: float, step: int, warmup: int, steps_per_epoch: int, epochs: int) -> float:
        """Lower lr by the milestones that have passed."""
        passed = sum(step >= milestone * steps_per_epoch for milestone in self.milestones)
        return lr * self.gamma**passed


@SCHEDULES.add
class ConstantSchedule(ScheduleSpec):
    """Keeps lr throughout, after a linear warm-up."""

    kind: Literal["constant"]

    def after_warmup(self, lr: float, step: int, warmup: int, steps_per_epoch: int, epochs: int) -> float:
        """Keep lr."""
        return lr

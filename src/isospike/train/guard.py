"""What is refused when a number of a run is not finite: a step, and a checkpoint."""

import math
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from isospike.errors import RunFailed
from isospike.finite import first_bad_place, not_finite
from isospike.layers import statistics_known
from isospike.train.step import Figures, Step, Taken

MIN_SCALE = 2.0**-10  # of fp16 gradients; below it nothing is left to lower
ADVICE = "Try a lower optim.lr, train.clip_norm, or train.precision fp32."


def check_state(tensors: Mapping[str, Tensor], step: int, checkpoint: Path) -> None:
    """Refuse to save NaN or infinity in place of a checkpoint that has none.

    Args:
        tensors: What would be saved: weights, running statistics, averages and the state of the optimiser.
        step: Steps done.
        checkpoint: The last one of the run.

    Raises:
        RunFailed: names the first tensor.
    """
    if names := not_finite(tensors):
        raise RunFailed(f"after step {step}, what is not finite is {names}. {ADVICE}{what_is_left(checkpoint)}")


def what_is_left(checkpoint: Path) -> str:
    """Return a sentence about the last checkpoint of a run, with a space in front; "" where there is none.

    ``check_state`` lets none be written that is not finite.
    """
    return f" The last checkpoint, {checkpoint}, is from before." if checkpoint.is_file() else ""


def check_step(step: Step, taken: Taken, figures: Figures, checkpoint: Path) -> None:
    """Refuse a step whose loss or gradient is not finite; it has left the weights alone.

    Args:
        step: How steps are taken: the bad one is repeated to find the place.
        taken: What it was given.
        figures: What it found.
        checkpoint: The last one of the run.

    Raises:
        RunFailed: says where the finite numbers end.
    """
    # In fp16 an infinite gradient is nothing unusual, until nothing is left to lower the scale by.
    hopeless = not step.learner.scaler.is_enabled() or figures.scale < MIN_SCALE
    if not math.isfinite(figures.loss):
        raise _failure("the loss", step, taken, checkpoint)
    if hopeless and not math.isfinite(figures.grad_norm):
        raise _failure("the gradient", step, taken, checkpoint)


def _failure(what: str, step: Step, taken: Taken, checkpoint: Path) -> RunFailed:
    torch.manual_seed(taken.seed)
    with statistics_known():  # once more, for its gradients: the weights are still the same
        step.forward_backward(*taken.batch)
    where = first_bad_place(step.learner.model, lambda: step.forward(*taken.batch[:2])[1])
    return RunFailed(f"{what} is not finite at step {taken.step}: {where}. {ADVICE}{what_is_left(checkpoint)}")

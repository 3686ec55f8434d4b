"""When a number is not finite: which layer it came from, and what is left of a run."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from isospike.errors import RunFailed
from isospike.finite import not_finite

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
    """A sentence about the last checkpoint of a run, with a space in front; "" where there is none.

    ``check_state`` lets none be written that is not finite.
    """
    return f" The last checkpoint, {checkpoint}, is from before." if checkpoint.is_file() else ""

"""Training and evaluation in plain PyTorch."""

from isospike.train.evaluate import Evaluation, evaluate
from isospike.train.trainer import Outcome, Trainer

__all__ = ["Evaluation", "Outcome", "Trainer", "evaluate"]

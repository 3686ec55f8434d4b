"""Training in plain PyTorch."""

from isospike.train.trainer import Outcome, Trainer

__all__ = ["Outcome", "Trainer"]

"""Trained networks, fast: norms in weights, one pass between convolutions, 8-bit integers, early exit."""

from isospike.inference.compiled import CompiledNet, Precision
from isospike.inference.early_exit import Decision, EarlyExit
from isospike.inference.eval_pass import EvalPass, Ready, Refusal

__all__ = ["CompiledNet", "Decision", "EarlyExit", "EvalPass", "Precision", "Ready", "Refusal"]

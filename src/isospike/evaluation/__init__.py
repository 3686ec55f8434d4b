"""Evaluation: a trained network on a test split."""

from isospike.evaluation.evaluate import Evaluation, as_results, evaluate
from isospike.evaluation.fast import FastNetwork

__all__ = ["Evaluation", "FastNetwork", "as_results", "evaluate"]

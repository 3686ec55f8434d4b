"""Instruments: what really flows through a network."""

from isospike.analysis.edges import Edge, check_edges
from isospike.analysis.gradients import GradientNorms, gradient_norms
from isospike.analysis.isometry import UnitIsometry, log10_product, measure_isometry, measure_isometry_of
from isospike.analysis.probes import Estimate
from isospike.analysis.theory import Moments
from isospike.analysis.verdict import Verdict, judge

__all__ = [
    "Edge",
    "Estimate",
    "GradientNorms",
    "Moments",
    "UnitIsometry",
    "Verdict",
    "check_edges",
    "gradient_norms",
    "judge",
    "log10_product",
    "measure_isometry",
    "measure_isometry_of",
]

"""Instruments: what really flows through a network."""

from isospike.analysis.conversion import ConversionReport, LayerError, conversion_report, layer_errors
from isospike.analysis.edges import Edge, check_edges
from isospike.analysis.energy import Energy, measure_energy, nominal_counts
from isospike.analysis.energy_tables import ENERGY_TABLES, EnergyTable
from isospike.analysis.flow import Flow, Watch, watch
from isospike.analysis.gradients import GradientNorms, gradient_norms
from isospike.analysis.isometry import UnitIsometry, log10_product, measure_isometry, measure_isometry_of
from isospike.analysis.operations import OperationCounter
from isospike.analysis.probes import Estimate
from isospike.analysis.raster import Raster, record_raster
from isospike.analysis.recording import picture_recording
from isospike.analysis.theory import Moments
from isospike.analysis.verdict import Verdict, judge

__all__ = [
    "ENERGY_TABLES",
    "ConversionReport",
    "Edge",
    "Energy",
    "EnergyTable",
    "Estimate",
    "Flow",
    "GradientNorms",
    "LayerError",
    "Moments",
    "OperationCounter",
    "Raster",
    "UnitIsometry",
    "Verdict",
    "Watch",
    "check_edges",
    "conversion_report",
    "gradient_norms",
    "judge",
    "layer_errors",
    "log10_product",
    "measure_energy",
    "measure_isometry",
    "measure_isometry_of",
    "nominal_counts",
    "picture_recording",
    "record_raster",
    "watch",
]

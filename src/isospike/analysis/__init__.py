"""Instruments: what really flows through a network."""

from isospike.analysis.edges import Edge, check_edges
from isospike.analysis.energy import Energy, measure_energy, nominal_counts
from isospike.analysis.energy_tables import ENERGY_TABLES, EnergyTable
from isospike.analysis.flow import Flow, Watch, watch
from isospike.analysis.operations import OperationCounter

__all__ = [
    "ENERGY_TABLES",
    "Edge",
    "Energy",
    "EnergyTable",
    "Flow",
    "OperationCounter",
    "Watch",
    "check_edges",
    "measure_energy",
    "nominal_counts",
    "watch",
]

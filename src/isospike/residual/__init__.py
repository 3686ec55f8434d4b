"""Residual topologies: one validated row each, and the one interpreter that turns a row into modules."""

# Importing a row registers it.
from isospike.residual import da, ds, ms, plain, sew, vanilla  # noqa: F401
from isospike.residual.domain import BINARY, REAL, Domain
from isospike.residual.join import JOINS, Join
from isospike.residual.reach import COMBINES, REACHES
from isospike.residual.stage import Links, MapShape, Scale, Stage, Weigh
from isospike.residual.topology import TOPOLOGIES, NormInit, Topology
from isospike.residual.unit import ResidualUnit, build_chain

__all__ = [
    "BINARY",
    "COMBINES",
    "JOINS",
    "REACHES",
    "REAL",
    "TOPOLOGIES",
    "Domain",
    "Join",
    "Links",
    "MapShape",
    "NormInit",
    "ResidualUnit",
    "Scale",
    "Stage",
    "Topology",
    "Weigh",
    "build_chain",
]

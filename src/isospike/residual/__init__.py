"""Residual topologies: one validated row each, and the one interpreter that turns a row into modules."""

# Importing a row registers it.
from isospike.residual import ms, plain, sew, vanilla  # noqa: F401
from isospike.residual.join import JOINS, Join
from isospike.residual.topology import TOPOLOGIES, NormInit, Topology
from isospike.residual.unit import ResidualUnit, build_chain

__all__ = ["JOINS", "TOPOLOGIES", "Join", "NormInit", "ResidualUnit", "Topology", "build_chain"]

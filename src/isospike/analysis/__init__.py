"""Instruments: what really flows through a network."""

from isospike.analysis.edges import Edge, check_edges

__all__ = ["Edge", "check_edges"]

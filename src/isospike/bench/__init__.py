"""Speed and memory of ours, of its peers and of what bounds both, measured in one run."""

from isospike.bench.cells import SUITES, Cell
from isospike.bench.contestants import PEERS, line_up
from isospike.bench.measure import Plan, measure_cell

__all__ = ["PEERS", "SUITES", "Cell", "Plan", "line_up", "measure_cell"]

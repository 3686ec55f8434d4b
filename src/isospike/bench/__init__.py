"""Speed and memory of ours, of its peers and of what bounds both, measured in one run."""

from isospike.bench.cells import SUITES, Cell
from isospike.bench.contestants import PEERS, contestants
from isospike.bench.measure import Plan, measure

__all__ = ["PEERS", "SUITES", "Cell", "Plan", "contestants", "measure"]

"""Speed and memory of ours, of its peers and of what bounds both, measured in one run."""

from isospike.bench.cases import SUITES, Case
from isospike.bench.contestants import PEERS, line_up
from isospike.bench.measure import Plan, measure_case

__all__ = ["PEERS", "SUITES", "Case", "Plan", "line_up", "measure_case"]

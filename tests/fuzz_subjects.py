"""Readers that are given damaged files, by their names."""

from fuzz_data import DATA
from fuzz_events import EVENTS
from fuzz_runs import RUNS
from fuzz_weights import WEIGHTS

SUBJECTS = DATA | EVENTS | RUNS | WEIGHTS

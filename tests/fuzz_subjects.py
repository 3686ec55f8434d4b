"""Readers that are given damaged files, by their names."""

from fuzz_data import DATA
from fuzz_runs import RUNS
from fuzz_weights import WEIGHTS

SUBJECTS = DATA | RUNS | WEIGHTS

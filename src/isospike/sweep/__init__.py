"""Many runs by one recipe, and what they say together: plan, run, results."""

from isospike.sweep.plan import PLAN, Cell, Sweep, open_sweep, plan_sweep, save_plan
from isospike.sweep.results import collect, write_results
from isospike.sweep.run import Ended, run_sweep

__all__ = [
    "PLAN",
    "Cell",
    "Ended",
    "Sweep",
    "collect",
    "open_sweep",
    "plan_sweep",
    "run_sweep",
    "save_plan",
    "write_results",
]

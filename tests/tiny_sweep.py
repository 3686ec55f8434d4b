"""A sweep of networks that train in a second, which files of tests share."""

from isospike.sweep import plan_sweep, run_sweep, save_plan
from isospike.train.display import SilentDisplay

DATA = "data={kind: synthetic, classes: 4, channels: 1, size: 8, train: 64, test: 16}"
SMALL = [DATA, "model.T=2", "model.width=4", "train.batch_size=16", "train.epochs=2", "train.log_every=2", "augment={}"]
SETTINGS = [word for change in SMALL for word in ("--set", change)]
TINY = ["sweep", "--topologies", "vanilla,ms", "--depths", "8", "--seeds", "0", "--jobs", "1", *SETTINGS]


def tiny(path, *more, topologies=("ms",), depths=(8,), seeds=(0,)):
    sweep = plan_sweep(
        path, recipe="digits_sweep", topologies=topologies, depths=depths, seeds=seeds, changes=[*SMALL, *more]
    )
    save_plan(sweep)
    return sweep


def train(sweep, jobs=1, display=SilentDisplay):
    return [*run_sweep(sweep, jobs=jobs, device="cpu", display=display, say=lambda text: None)]

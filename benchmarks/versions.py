"""Two versions of this package in one run: training steps, eval and compiled networks, in turn.

    git worktree add OLD COMMIT, and compile the library of OLD there (``pip install -e`` does)
    python benchmarks/versions.py OLD/src [--repeats N]

Every version works in a process of its own, which waits while the other works. T=4, 32x32, batch 32, all cores.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

import isospike as iso

HERE = Path(__file__).parent
T, BATCH, SIZE = 4, 32, 32
MODELS = {"ms_resnet20": {}, "sew_resnet20": {}, "ms_resnet18": {"stem": "cifar", "num_classes": 10}}


def works() -> dict[str, Callable[[], object]]:
    """What is timed, by the public names that both versions have."""
    return {work: run for name in MODELS for work, run in works_of(name).items()}


def works_of(name: str) -> dict[str, Callable[[], object]]:
    """The same for one network, whose neurons are as active as trained ones: see ``bench/describe.py``."""
    torch.manual_seed(0)
    x = torch.randn(BATCH, 3, SIZE, SIZE)
    model, tested = (iso.create_model(name, T=T, **MODELS[name]) for _ in range(2))
    for norm in (layer for layer in model.modules() if isinstance(layer, iso.layers.BatchNorm)):
        torch.nn.init.uniform_(norm.bias, -0.5, 0.1)

    def train() -> None:
        model.zero_grad()
        F.cross_entropy(model(x), torch.arange(BATCH) % 10).backward()

    for _ in range(20):
        train()  # running statistics become those of x
    tested.load_state_dict(model.state_dict())
    nets = {"eval": tested.eval()} | {p: tested.compile_for_inference(p) for p in ("float32", "int8")}

    def infer(net: Callable[[Tensor], Tensor]) -> None:
        with torch.no_grad():
            net(x)

    return {f"{name}, training step": train} | {f"{name}, {kind}": partial(infer, net) for kind, net in nets.items()}


def work() -> None:
    """Time what is asked for, one name to a line, until there are no more."""
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    found = works()
    print(json.dumps(list(found)), flush=True)
    for line in sys.stdin:
        began = time.perf_counter()
        found[line.strip()]()
        print(time.perf_counter() - began, flush=True)


def start(source: Path) -> subprocess.Popen[str]:
    """A process of the version whose package lies in this folder."""
    environment = {**os.environ, "PYTHONPATH": f"{source.resolve()}:{HERE}"}
    command = [sys.executable, "-c", "import versions; versions.work()"]
    return subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def ask(process: subprocess.Popen[str], name: str) -> float:
    """Seconds of one call."""
    print(name, file=process.stdin, flush=True)
    return float(process.stdout.readline())


def main() -> None:
    from common import header, save, summary  # of this version: the other one has its own

    parser = argparse.ArgumentParser()
    parser.add_argument("old", type=Path, help="folder of the other version's package")
    parser.add_argument("--repeats", type=int, default=15)
    arguments = parser.parse_args()
    before, after = start(arguments.old), start(HERE.parent / "src")
    names, same = (json.loads(process.stdout.readline()) for process in (before, after))
    assert names == same
    commit = ["git", "-C", str(arguments.old), "rev-parse", "--short", "HEAD"]
    old = subprocess.run(commit, capture_output=True, text=True, check=True).stdout.strip()
    rows = {}
    for name in names:
        for process in (before, after):
            for _ in range(3):
                ask(process, name)
        seconds = [(ask(before, name), ask(after, name)) for _ in range(arguments.repeats)]
        gain = summary([old / new for old, new in seconds])
        rows[name] = {
            "before": summary([a for a, _ in seconds]),
            "after": summary([b for _, b in seconds]),
            "gain": gain,
        }
        print(
            f"{name}: {gain['median']:.2f}x, quartiles {gain['quartiles'][0]:.2f} to {gain['quartiles'][1]:.2f}",
            flush=True,
        )
    for process in (before, after):
        process.communicate()
    save("versions", {"header": header("python benchmarks/versions.py OLD/src"), "before": old, "rows": rows})


if __name__ == "__main__":
    main()

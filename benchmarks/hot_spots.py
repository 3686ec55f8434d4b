"""Where both threads are in a training step of ms_resnet20, by Linux's perf: T=4, batch 32, 32x32.

    python benchmarks/hot_spots.py

Samples behind the first seconds, which load and warm up; of the main thread by library, of both by function.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import torch
import torch.nn.functional as F

import isospike as iso
from common import header, save
from isospike.malloc import keep_freed_memory

STEPS, MOST = 120, 20


def steps():
    """Prints when the warm steps began, by perf's clock."""
    keep_freed_memory()
    torch.manual_seed(0)
    model = iso.create_model("ms_resnet20", T=4).train()
    x, y = torch.randn(32, 3, 32, 32), torch.randint(0, 10, (32,))
    for step in range(STEPS):
        if step == STEPS // 4:
            print(time.clock_gettime(time.CLOCK_MONOTONIC_RAW), flush=True)
        F.cross_entropy(model(x), y).backward()
        model.zero_grad()


def samples(path, began):
    """Of every sample behind ``began``: whether it is the main thread, library, and function."""
    command = ["perf", "script", "-i", path, "-F", "pid,tid,time,ip,sym,dso"]
    for line in subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines():
        threads, moment, _, *function, library = line.split()
        process, thread = threads.split("/")
        if float(moment.rstrip(":")) >= began:
            yield process == thread, Path(library.strip("()")).name, " ".join(function)


def shares(counter):
    total = sum(counter.values())
    return {name: count / total for name, count in counter.most_common(MOST)}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", action="store_true")
    if parser.parse_args().steps:
        steps()
        return
    if shutil.which("perf") is None:
        sys.exit("perf is missing: on Debian, apt install linux-perf")
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/perf.data"
        record = ["perf", "record", "-q", "-k", "CLOCK_MONOTONIC_RAW", "-F", "999", "-o", path, "--"]
        run = subprocess.run([*record, sys.executable, __file__, "--steps"], check=True, capture_output=True, text=True)
        found = list(samples(path, float(run.stdout)))
    result = {
        "header": header("python benchmarks/hot_spots.py"),
        "samples": len(found),
        "main thread by library": shares(Counter(library for is_main, library, _ in found if is_main)),
        "functions of both threads": shares(Counter(f"{function} ({library})" for _, library, function in found)),
    }
    for part in ("main thread by library", "functions of both threads"):
        print(part, *(f"{share:6.1%} {name}" for name, share in result[part].items()), sep="\n")
    save("hot_spots", result)


if __name__ == "__main__":
    main()

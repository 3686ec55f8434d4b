"""Where both threads are in a training step, by Linux's perf, and how near its sums come to the machine's rate.

    python benchmarks/hot_spots.py

ms_resnet20 and ms_resnet18, T=4, batch 32, 32x32, in which 19 % of the neurons fire. Milliseconds of both threads for a
step, by part and by function. What a convolution of spikes must add, and what a dense one with fewer products must
multiply and add, stand beside what the machine adds out of its inner cache in a second (`isospike bench` has it, too):
the share is how much of that rate was reached while a thread was there.
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
from torch import nn

import isospike as iso
from common import header, save
from isospike.bench.cases import Case
from isospike.bench.describe import network_tensors
from isospike.bench.limits import additions_of, machine_limits
from isospike.malloc import keep_freed_memory
from isospike.ops.conv2d import geometry_of
from isospike.ops.cpu.winograd import SIDES, has_winograd, products

T, BATCH, SIZE, WARM_UP, MOST, FREQUENCY = 4, 32, 32, 5, 24, 1999
MODELS = {"ms_resnet20": ({}, 100), "ms_resnet18": ({"stem": "cifar", "num_classes": 10}, 20)}  # and steps
ADDS, MULTIPLIES = "additions of what fired", "products of dense convolutions"
PARTS = {  # by the beginning of a function's name, or of its library's
    ADDS: ("spike_scatter", "spike_gather"),
    MULTIPLIES: ("winograd_products",),
    "what brings these their numbers": ("spike_", "isospike_spike", "winograd_", "isospike_winograd", "isospike_pack"),
    "norms and neurons": ("",),  # all others of the library
}
LIBRARIES = {
    "libgomp": "waiting for the other thread",
    "libtorch": "PyTorch",
    "libc10": "PyTorch",
    "perf-": "PyTorch",  # oneDNN's, compiled at run time
    "libpython": "Python",
    "[kernel": "the system",
    "libc.": "the system",
}


def built(name):
    """A network whose neurons are as active as trained ones, its images, and its labels."""
    model = iso.create_model(name, T=T, **MODELS[name][0])
    tensors = network_tensors(model, BATCH, SIZE)
    return model.train(), tensors["x"], tensors["y"]


def steps(name):
    """Prints when the warm steps began and ended, by perf's clock."""
    keep_freed_memory()
    torch.manual_seed(0)
    model, x, y = built(name)
    moments = []
    for count in (WARM_UP, MODELS[name][1]):
        for _ in range(count):
            F.cross_entropy(model(x), y).backward()
            model.zero_grad()
        moments.append(time.clock_gettime(time.CLOCK_MONOTONIC_RAW))
    print(*moments, flush=True)


def samples(path, began, ended):
    """Function and library of every sample of both threads between two moments."""
    command = ["perf", "script", "-i", path, "-F", "time,ip,sym,dso"]
    for line in subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines():
        moment, _, *function, library = line.split()
        if began <= float(moment.rstrip(":")) <= ended:
            yield " ".join(function), Path(library.strip("()")).name


def part_of(function, library):
    if library.startswith("_cpu"):
        return next(part for part, names in PARTS.items() if function.startswith(names))
    return next((part for start, part in LIBRARIES.items() if library.startswith(start)), "the system")


def multiplications(model, x):
    """Of the gradients of the inputs of one step that take fewer products."""
    found = []

    def note(conv, inputs, output):
        if has_winograd(conv.weight, geometry_of(conv)):
            N, filters, *size = output.shape
            found.append(N * filters * conv.in_channels * min(products(side, *size) for side in SIDES))

    hooks = [m.register_forward_hook(note) for m in model.modules() if isinstance(m, nn.Conv2d)]
    with torch.no_grad():
        model(x)
    for hook in hooks:
        hook.remove()
    return sum(found)


def measured(name):
    count = MODELS[name][1]
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/perf.data"
        record = ["perf", "record", "-q", "-k", "CLOCK_MONOTONIC_RAW", "-F", str(FREQUENCY), "-o", path, "--"]
        run = subprocess.run([*record, sys.executable, __file__, "--steps", name], check=True, stdout=-1, text=True)
        began, ended = map(float, run.stdout.split())
        found = list(samples(path, began, ended))
    each = 1000 / FREQUENCY / count
    parts = Counter(part_of(*sample) for sample in found)
    functions = Counter(f"{function} ({library})" for function, library in found)
    model, x, _ = built(name)
    adds = additions_of(Case("train", name, BATCH, T), model.eval(), x)["additions"]
    rate = machine_limits(torch.get_num_threads())["additions"] / torch.get_num_threads() / 1000
    wanted = {ADDS: adds / rate, MULTIPLIES: multiplications(model.train(), x) / rate}
    return {
        "step_ms": 1000 * (ended - began) / count,
        "parts_ms": {part: samples * each for part, samples in parts.most_common()},
        "at_the_rate_ms": wanted,
        "share": {part: wanted[part] / (parts[part] * each) for part in wanted},
        "functions_ms": {function: samples * each for function, samples in functions.most_common(MOST)},
    }


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps")
    name = parser.parse_args().steps
    if name:
        steps(name)
        return
    if shutil.which("perf") is None:
        sys.exit("perf is missing: on Debian, apt install linux-perf")
    found = {name: measured(name) for name in MODELS}
    for name, row in found.items():
        print(f"{name}: {row['step_ms']:.0f} ms, of both threads:")
        for part, ms in row["parts_ms"].items():
            share = row["share"].get(part)
            print(f"  {ms:7.1f} ms {part}" + (f", {share:.0%} of the machine's rate" if share else ""))
    save("hot_spots", {"header": header("python benchmarks/hot_spots.py"), "networks": found})


if __name__ == "__main__":
    main()

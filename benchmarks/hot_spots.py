"""Where both threads are in a training step or a compiled network, by Linux's perf, beside the machine's rates.

    python benchmarks/hot_spots.py

ms_resnet20 and ms_resnet18, T=4, batch 32, 32x32, in which 19 % of the neurons fire. Milliseconds of both threads for
one run, by part and by function. What a convolution of spikes must add, and what a dense one with fewer products must
multiply and add, stand beside what the machine adds out of its inner cache in a second (`isospike bench` has it, too);
of integers, whose vectors hold two of 16 bits for a float, it adds twice as many. What norms and neurons of a training
step must read and write stands beside what it copies. The share is how much of that rate was reached while a thread
was there.
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
from isospike.layers import BatchNorm
from isospike.malloc import keep_freed_memory
from isospike.ops.conv2d import geometry_of
from isospike.ops.cpu.winograd import SIDES, has_winograd, products

T, BATCH, SIZE, WARM_UP, MOST, FREQUENCY, MOMENTS = 4, 32, 32, 5, 24, 1999, 6
MODELS = {"ms_resnet20": ({}, 100), "ms_resnet18": ({"stem": "cifar", "num_classes": 10}, 20)}  # and runs
TRAINS = "training step"
WORKS = TRAINS, "float32", "int8"
ADDS, MULTIPLIES, MOVES = "additions of what fired", "products of dense convolutions", "norms and neurons"
RATES = {ADDS: "additions", MULTIPLIES: "additions", MOVES: "copies"}
# Maps that a norm and its neurons read or write, spikes and masks being bits: x twice; back the gradient of spikes, x
# and that of the current, then x, that and that of x. A skip comes, u goes, its gradient comes, at every second norm.
MAPS = {"without a skip": 2 + 6, "with a skip": 4 + 7}
PARTS = {  # by the beginning of a function's name, or of its library's
    ADDS: ("spike_scatter", "spike_gather"),
    MULTIPLIES: ("winograd_products", "dense_products"),
    "what brings these their numbers": (
        *("spike_", "isospike_spike", "isospike_pack", "winograd_", "isospike_winograd"),
        *("isospike_dense", "place_pixels"),
    ),
    MOVES: ("",),  # all others of the library
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


def runs(name, work):
    """Prints when the warm runs began and ended, by perf's clock."""
    keep_freed_memory()
    torch.manual_seed(0)
    model, x, y = built(name)
    net = None if work == TRAINS else model.eval().compile_for_inference(work)

    def step():
        F.cross_entropy(model(x), y).backward()
        model.zero_grad()

    moments = []
    for count in (WARM_UP, MODELS[name][1]):
        for _ in range(count):
            step() if net is None else net(x)
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


def norm_bytes(model, x):
    """Of the inputs of all norms of one step."""
    sizes = []
    norms = [module for module in model.modules() if isinstance(module, BatchNorm)]
    hooks = [norm.register_forward_pre_hook(lambda _, inputs: sizes.append(inputs[0].nbytes)) for norm in norms]
    with torch.no_grad():
        model(x)
    for hook in hooks:
        hook.remove()
    return sum(sizes)


def best_limits():
    """What the machine does at most, of moments apart: its neighbours slow it by turns."""
    found = []
    for _ in range(MOMENTS):
        found.append(machine_limits(torch.get_num_threads()))
        time.sleep(1)
    return {kind: max(limits[kind] for limits in found) for kind in found[0]}


def at_the_rate(name, work, limits):
    """Milliseconds that parts would take at the rates of the machine, by part."""
    model, x, _ = built(name)
    adding, copying = (limits[kind] / torch.get_num_threads() / 1000 for kind in ("additions", "bytes"))
    case = Case("train" if work == TRAINS else "infer", name, BATCH, T)
    adds = additions_of(case, model.eval(), x)["additions"]
    if work != TRAINS:
        return {ADDS: adds / adding / (2 if work == "int8" else 1)}
    bytes_moved = norm_bytes(model.train(), x) * sum(MAPS.values()) / len(MAPS)
    return {ADDS: adds / adding, MULTIPLIES: multiplications(model, x) / adding, MOVES: bytes_moved / copying}


def measured(name, work, limits):
    count = MODELS[name][1]
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/perf.data"
        record = ["perf", "record", "-q", "-k", "CLOCK_MONOTONIC_RAW", "-F", str(FREQUENCY), "-o", path, "--"]
        run = subprocess.run([*record, sys.executable, __file__, "--run", name, work], check=True, stdout=-1, text=True)
        began, ended = map(float, run.stdout.split())
        found = list(samples(path, began, ended))
    each = 1000 / FREQUENCY / count
    parts = Counter(part_of(*sample) for sample in found)
    functions = Counter(f"{function} ({library})" for function, library in found)
    wanted = at_the_rate(name, work, limits)
    return {
        "run_ms": 1000 * (ended - began) / count,
        "parts_ms": {part: samples * each for part, samples in parts.most_common()},
        "at_the_rate_ms": wanted,
        "share": {part: wanted[part] / (parts[part] * each) for part in wanted},
        "functions_ms": {function: samples * each for function, samples in functions.most_common(MOST)},
    }


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--run", nargs=2)
    run = parser.parse_args().run
    if run:
        runs(*run)
        return
    if shutil.which("perf") is None:
        sys.exit("perf is missing: on Debian, apt install linux-perf")
    limits = best_limits()
    found = {f"{name}, {work}": measured(name, work, limits) for name in MODELS for work in WORKS}
    for name, row in found.items():
        print(f"{name}: {row['run_ms']:.0f} ms, of both threads:")
        for part, ms in row["parts_ms"].items():
            share = row["share"].get(part)
            print(f"  {ms:7.1f} ms {part}" + (f", {share:.0%} of the rate of {RATES[part]}" if share else ""))
    save("hot_spots", {"header": header("python benchmarks/hot_spots.py"), "limits": limits, "works": found})


if __name__ == "__main__":
    main()

"""Time and memory of the isometry of deep networks, each in a process of its own.

    OMP_NUM_THREADS=1 python benchmarks/isometry.py

32x32 images, T=4, batch 8, 4 probes per unit; then one real backward for the gradient norms. Peak memory is that of
the whole process, the package and PyTorch included.
"""

import argparse
import json
import resource
import subprocess
import sys
import time

import torch

import isospike as iso
from common import header, save, summary
from isospike.analysis import judge, log10_product
from isospike.malloc import keep_freed_memory

MODELS = ("ms_resnet110", "ms_resnet482")


def one(name):
    """Measure in this process."""
    keep_freed_memory()
    torch.manual_seed(0)
    model = iso.create_model(name, T=4)
    images, labels = torch.randn(8, 3, 32, 32), torch.arange(8)
    began = time.perf_counter()
    units = iso.measure_isometry(model, images, probes=4)
    isometry = time.perf_counter()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    gradients = iso.gradient_norms(model, images, labels)
    ended = time.perf_counter()
    return {
        "units": len(units),
        "isometry_s": isometry - began,
        "isometry_peak_mb": peak / 1024,
        "gradients_s": ended - isometry,
        "whole_peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "log10_product": log10_product(units).as_dict(),
        "verdict": judge(units, gradients).main.text,
    }


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--one")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(one(arguments.one)))
        return
    result = {"header": header("OMP_NUM_THREADS=1 python benchmarks/isometry.py"), "rows": []}
    for name in MODELS:
        runs = []
        for _ in range(arguments.repeats):
            done = subprocess.run([sys.executable, __file__, "--one", name], check=True, capture_output=True, text=True)
            runs.append(json.loads(done.stdout))
        numbers = {key: summary([run[key] for run in runs]) for key in runs[0] if isinstance(runs[0][key], float)}
        fixed = {key: runs[0][key] for key in ("units", "log10_product", "verdict")}
        result["rows"].append({"model": name, **fixed, **numbers})
        print(name, {key: round(value["median"], 1) for key, value in numbers.items()}, runs[0]["verdict"])
    save("isometry", result)


if __name__ == "__main__":
    main()

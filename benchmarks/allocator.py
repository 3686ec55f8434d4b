"""What keeping freed memory is worth: training steps of ms_resnet20 with and without it, in fresh processes in turn.

python benchmarks/allocator.py
"""

import argparse
import json
import resource
import subprocess
import sys
import time

import torch
import torch.nn.functional as F

import isospike as iso
from common import header, save, summary
from isospike.malloc import keep_freed_memory
from isospike.memory import peak_memory_mb

CASES = {"T=4, batch 32": (4, 32), "T=6, batch 100": (6, 100)}


def one_process(keep, T, batch, steps=8):
    """Median seconds of a step, and page faults per step."""
    if keep:
        keep_freed_memory()
    model = iso.create_model("ms_resnet20", T=T)
    x, y = torch.randn(batch, 3, 32, 32), torch.randint(0, 10, (batch,))
    seconds = []
    for step in range(steps + 2):
        if step == 2:
            faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        began = time.perf_counter()
        F.cross_entropy(model(x), y).backward()
        seconds.append(time.perf_counter() - began)
    faults = (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults) / steps
    peak = peak_memory_mb(torch.device("cpu"))
    print(json.dumps({"seconds": sorted(seconds[2:])[steps // 2], "faults": faults, "peak_mb": peak}))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--one", nargs=3, type=int)
    arguments = parser.parse_args()
    if arguments.one:
        one_process(*arguments.one)
        return
    result = {"header": header("python benchmarks/allocator.py"), "rows": []}
    for case, (T, batch) in CASES.items():
        runs = {"default": [], "kept": []}
        for _ in range(arguments.repeats):
            for name, keep in (("default", 0), ("kept", 1)):
                command = [sys.executable, __file__, "--one", str(keep), str(T), str(batch)]
                runs[name].append(
                    json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
                )
        row = {"case": case}
        for name, found in runs.items():
            row[name] = {key: summary([run[key] for run in found]) for key in found[0]}
        default, kept = (row[name]["seconds"]["median"] for name in runs)
        print(f"{case}: {default:.3f} s default, {kept:.3f} s kept, {default / kept:.2f}x")
        result["rows"].append(row)
    save("allocator", result)


if __name__ == "__main__":
    main()

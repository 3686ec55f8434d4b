"""Every digits recipe with several seeds: test accuracy of the last epoch and time.

python benchmarks/digits.py
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import header, save, summary
from isospike.recipes import list_recipes
from isospike.run_folder import RunFolder


def one_run(recipe, seed, folder):
    """Last test accuracy and wall-clock seconds of a run in a process of its own, start and report included."""
    command = [sys.executable, "-m", "isospike", "train", "--recipe", recipe, "--seed", str(seed), "--out", str(folder)]
    began = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    seconds = time.perf_counter() - began
    return RunFolder(folder).read_analysis("test")["accuracy"], seconds


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=3)
    every = [recipe for recipe in list_recipes() if recipe.startswith("digits_")]
    parser.add_argument("--log", default="digits", help="Name of the log.")
    parser.add_argument("--recipe", nargs="+", choices=every, default=every)
    arguments = parser.parse_args()
    result = {"header": header(" ".join(["python benchmarks/digits.py", *sys.argv[1:]])), "rows": []}
    for recipe in arguments.recipe:
        with tempfile.TemporaryDirectory() as folder:
            runs = [one_run(recipe, seed, Path(folder) / str(seed)) for seed in range(arguments.seeds)]
        accuracies, seconds = zip(*runs, strict=True)
        result["rows"].append(
            {"recipe": recipe, "accuracy": summary(list(accuracies)), "seconds": summary(list(seconds))}
        )
        print(
            f"{recipe}: {', '.join(f'{a:.2%}' for a in accuracies)} in {summary(list(seconds))['median']:.0f} s",
            flush=True,
        )
    save(arguments.log, result)


if __name__ == "__main__":
    main()

"""Every figure of the GPU backend in one run: ``benchmarks/gpu.sh``, under nine minutes on one data-centre GPU.

Parts run one after the other as processes of their own, each with a limit of time, and the log is written after each:
what fails or takes too long costs only its own figures. Speed-ups are left out unless the kernels were found to compute
what the reference does. Images are random. ``--tiny`` runs the same code on tiny shapes, on a CPU in Triton's
interpreter: it shows that the script works, and its times mean nothing.
"""

import argparse
import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

CUDA = torch.cuda.is_available()
if not CUDA:
    os.environ["TRITON_INTERPRET"] = "1"

from common import LOGS, header, save  # noqa: E402
from gpu_fit import fit  # noqa: E402
from gpu_models import capture, train_model  # noqa: E402
from gpu_ops import check_kernels, time_kernels  # noqa: E402

LIMIT = 520.0  # seconds in all
WINS = 1.3  # a kernel that is not this much faster than torch.compile is not worth having
MODELS = {
    "ms_resnet34": {"T": 4, "batch": 64, "size": 224},
    "sew_resnet34": {"T": 4, "batch": 64, "size": 224},
    "ms_resnet110": {"T": 6, "batch": 100, "size": 32},
    "ms_resnet482": {"T": 6, "batch": 100, "size": 32},
}
TINY_MODELS = {"ms_resnet8": {"T": 2, "batch": 2, "size": 16}, "sew_resnet8": {"T": 2, "batch": 2, "size": 16}}
PEERS = Path(__file__).parent.parent / ".bench"  # isospike bench --setup, or gpu.sh
PEER_SECONDS = 250  # a trial of SpikingJelly's settings for one row alone takes a minute
LINES = 12  # of what a part that failed said last
THIN = ("ms_resnet110", "ms_resnet482", "ms_resnet8")  # bound by launches


def parts(tiny, limit):
    """Name of every part, its seconds at most, and what it runs within ``limit`` seconds; the most wanted first."""
    models = TINY_MODELS if tiny else MODELS
    table = {"check": (100, lambda: check_kernels(tiny)), "kernels": (110, lambda: time_kernels(tiny))}
    for how, seconds in (("triton", 60), ("reference", 60), ("compiled", 110)):
        for name, shape in models.items():
            table[f"{name} {how}"] = (seconds, lambda name=name, shape=shape, how=how: train_model(name, how, **shape))
        if how == "triton":
            for name in THIN:
                if name in models:
                    table[f"fit {name}"] = (60, lambda name=name: fit(name, **models[name]))
                    table[f"{name} graph"] = (60, lambda name=name: capture(name, **models[name]))
    return table | {"peers": (PEER_SECONDS, lambda: beside_peers(tiny, limit - 10))}


def beside_peers(tiny, limit):
    """Networks beside SpikingJelly: as many rows of ``isospike bench --suite gpu`` as ``limit`` seconds allow."""
    if not (PEERS / "bin" / "python").exists():
        return {"failed": "no environment of the peers: isospike bench --setup, or WHEELS=FOLDER benchmarks/gpu.sh"}
    rows = ["--model", "ms_resnet8", "--work", "train", "--batch", "2", "--T", "2"] if tiny else ["--suite", "gpu"]
    turns = ["--repeats", "3", "--seconds", "4", "--peer-env", str(PEERS)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "bench.json"
        command = [
            sys.executable,
            "-m",
            "isospike",
            "bench",
            *rows,
            "--peer",
            "spikingjelly",
            *turns,
            "--out",
            str(path),
        ]
        try:
            said = subprocess.run(command, timeout=limit, capture_output=True, text=True).stderr[-500:]
        except subprocess.TimeoutExpired:
            said = f"stopped after {limit:.0f} s; these rows were done"
        if not path.is_file():
            return {"failed": said}
        return {"rows": json.loads(path.read_text())["rows"], "said": said}


def run_part(name, seconds, tiny):
    """A part in a process of its own: what it found, or how it ended."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "result.json"
        command = [sys.executable, __file__, "--part", name, "--limit", str(seconds), "--out", str(path)]
        command += ["--tiny"] if tiny else []
        began = time.perf_counter()
        try:
            done = subprocess.run(command, timeout=seconds, capture_output=True, text=True)
        except subprocess.TimeoutExpired:
            return {"failed": f"took more than {seconds:.0f} s"}
        took = round(time.perf_counter() - began, 1)
        if done.returncode:
            said = done.stderr.strip().splitlines()[-LINES:] or [f"exit code {done.returncode}"]
            return {"failed": said, "took_s": took}
        return json.loads(path.read_text()) | {"took_s": took}


def speed_ups(results):
    """Of every kernel over eager and compiled reference, and of every model; only where the kernels are right."""
    if not results.get("check", {}).get("right"):
        return "left out: the kernels were not shown to compute what the reference does"
    found = {}
    for row in results.get("kernels", {}).get("rows", []):
        seconds = row.get("device_seconds")
        if seconds is None:
            continue  # an older log has times with the host's launches in them
        rivals = {rival: seconds[rival] / seconds["triton"] for rival in ("reference", "compiled") if rival in seconds}
        found[row["work"]] = rivals | {"stays": rivals.get("compiled", 0) >= WINS}
    for name in {part.rpartition(" ")[0] for part in results if " " in part}:
        times = {
            how: results.get(f"{name} {how}", {}).get("seconds") for how in ("triton", "reference", "compiled", "graph")
        }
        if times["triton"]:
            found[name] = {how: s / times["triton"] for how, s in times.items() if s and how != "triton"}
    return found


def kept_results():
    """Those of the log, where it is of the same GPU and the same PyTorch."""
    path = LOGS / "gpu.json"
    log = json.loads(path.read_text()) if path.exists() else {"header": {}}
    here = header("benchmarks/gpu.sh")
    return log["results"] if all(log["header"].get(name) == here[name] for name in ("gpu", "torch")) else {}


def machine():
    """What it ran on."""
    return {"triton": importlib.import_module("triton").__version__}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tiny", action="store_true", help="tiny shapes, also without a GPU; nothing is saved")
    parser.add_argument("--only", nargs="+", help="these parts alone, whose results replace those of the log")
    parser.add_argument("--limit", type=float, default=LIMIT, help="seconds in all")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if not (CUDA or arguments.tiny):
        parser.error("PyTorch sees no GPU here; --tiny runs tiny shapes on the CPU")
    table = parts(arguments.tiny, arguments.limit)
    if arguments.part:
        arguments.out.write_text(json.dumps(table[arguments.part][1]()))
        return
    began, results = time.perf_counter(), kept_results() if arguments.only else {}
    patience = 5 if arguments.tiny else 1  # with the interpreter
    for name in arguments.only or table:
        seconds, left = table[name][0], arguments.limit * patience - (time.perf_counter() - began)
        limit = min(seconds * patience, left)
        results[name] = run_part(name, limit, arguments.tiny) if left > 5 else {"failed": "no time left"}
        print(name, json.dumps({k: v for k, v in results[name].items() if k not in ("rows", "cases")}), flush=True)
        if not arguments.tiny:
            log = {"header": header("benchmarks/gpu.sh") | machine(), "results": results}
            save("gpu", log | {"speed_ups": speed_ups(results)})
    if not arguments.tiny:
        print(json.dumps(speed_ups(results), indent=1))


if __name__ == "__main__":
    main()

"""What the benchmarks share: a header that names the machine, interleaved timing, and a log."""

import json
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

import isospike
from isospike.ops.cpu.library import instruction_set

LOGS = Path(__file__).parent / "logs"


def header(command: str) -> dict[str, Any]:
    """Versions and hardware."""
    cpu = next(
        line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    )
    return {
        "command": command,
        "date": datetime.now(UTC).date().isoformat(),
        "isospike": isospike.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "cpu": cpu,
        "instruction_set": instruction_set(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "threads": torch.get_num_threads(),
    }


def interleaved(
    works: Mapping[str, Callable[[], object]],
    repeats: int,
    warm_up: int = 2,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, dict[str, Any]]:
    """Time all works in turn, ``repeats`` times, so that what slows the machine slows all of them.

    Returns:
        Per work the median of its seconds, its quartiles, and all of them.
    """
    for work in works.values():
        for _ in range(warm_up):
            work()
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(repeats):
        for name, work in works.items():
            began = clock()
            work()
            seconds[name].append(clock() - began)
    return {name: summary(values) for name, values in seconds.items()}


def summary(values: list[float]) -> dict[str, Any]:
    """Median, quartiles and the values themselves."""
    low, _, high = statistics.quantiles(values, n=4)
    return {"median": statistics.median(values), "quartiles": [low, high], "all": values}


def save(name: str, result: Mapping[str, Any]) -> None:
    """Write a log that documents can name."""
    LOGS.mkdir(exist_ok=True)
    (LOGS / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n")

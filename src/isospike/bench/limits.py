"""What the processor can do at most, and how near to it the contestants of a row come."""

import time
from collections.abc import Callable
from typing import Any

import torch

from isospike.analysis import measure_energy
from isospike.bench.cases import Case
from isospike.models import SpikingResNet
from isospike.ops.cpu.library import library

Limits = dict[str, float]

TRIALS = 5  # of which the fastest counts: whatever else runs only slows
ROUNDS = 100_000  # some 10 ms
LARGE = 1 << 26  # bytes that no cache holds
COUNTED = 4  # images whose additions are counted
UNITS = {"additions": "G additions of what fired", "bytes": "GB"}
HOW = {"additions": "adds floats that its inner cache holds", "bytes": "copies in its memory"}


def machine_limits(threads: int) -> Limits | None:
    """Measure additions of floats per second, and bytes per second that a copy reads and writes.

    Args:
        threads: That share the work.

    Returns:
        None where there is no compiled library.
    """
    lib = library()
    if lib is None:
        return None
    total, source = torch.zeros(1), torch.ones(LARGE // 4)
    target = torch.empty_like(source)
    adding = _fastest(lambda: lib.isospike_additions(ROUNDS, total.data_ptr(), threads))
    copying = _fastest(lambda: target.copy_(source))
    return {
        "additions": ROUNDS * lib.isospike_additions_of_round() * threads / adding,
        "bytes": 2 * LARGE / copying,
    }


def _fastest(work: Callable[[], object]) -> float:
    found = []
    for _ in range(TRIALS):
        began = time.perf_counter()
        work()
        found.append(time.perf_counter() - began)
    return min(found)


def additions_of(case: Case, model: SpikingResNet, x: torch.Tensor) -> dict[str, float]:
    """Count what a network of spikes must add in one run: a weight for every spike that a layer reads.

    In training the gradient of the weights adds as often again; that of the inputs is dense, and not counted.
    """
    work = measure_energy(model, x[:COUNTED]).work
    passes = 2 if case.work == "train" else 1
    return {"additions": passes * case.batch * sum(layer.graded_acs for layer in work.layers)}


def traffic_of(case: Case) -> dict[str, float]:
    """Count the bytes that neurons alone must read and write: current and spikes; backwards the gradients as well."""
    tensors = 5 if case.work == "fire_train" else 2
    return {"bytes": 4.0 * tensors * case.T * case.batch * case.number * case.size**2}


def nearness(row: dict[str, Any], limits: Limits | None) -> list[str]:
    """Return a sentence for each contestant but the floor: how much it did per second, and the share of the limit."""
    if limits is None or not row.get("amount"):  # results of old say neither
        return []
    ((kind, amount),) = row["amount"].items()
    rates = {one["name"]: amount / one["seconds"]["median"] for one in row["contestants"] if one["role"] != "floor"}
    found = [
        f"{name}: {rate / 1e9:.1f} {UNITS[kind]} per second, {rate / limits[kind]:.0%}" for name, rate in rates.items()
    ]
    found[-1] += f" of the {limits[kind] / 1e9:.1f} at which this machine {HOW[kind]}"
    return found

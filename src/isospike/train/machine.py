"""What a recipe asks for and this machine does badly: what is taken in its place, and why.

Recipes are written for the machine of their source. What a person sets by hand is obeyed, with a line that says what it
costs, and so is what a run has begun with: it changes the numbers that come out. Only the number of processes that
decode images never exceeds the cores, since it changes nothing but the time.
"""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from isospike.config import RunConfig
from isospike.data import DataSpec
from isospike.data.images import usable_workers

# Flags of processors that multiply bf16 themselves, in x86's and ARM's words.
BF16_FLAGS = frozenset({"avx512_bf16", "amx_bf16", "bf16"})


def follow_machine(
    config: RunConfig, device: torch.device, say: Callable[[str], None], *, asked: Sequence[str] = ()
) -> RunConfig:
    """Return the configuration that a new run takes on this machine.

    Args:
        config: Of a recipe, with ``asked`` put in.
        device: Where it trains.
        say: Told, in a line each, what was asked for, what is taken and why.
        asked: ``key=value`` each, set by hand.
    """
    precision = config.train.precision
    if _is_emulated(precision, device) and not _sets_precision(asked):
        say(
            f"the recipe asks for train.precision={precision}, taken is fp32: {_emulated(precision)} "
            f"(--set train.precision={precision} insists)"
        )
        config = config.model_copy(update={"train": config.train.model_copy(update={"precision": "fp32"})})
    return limit_workers(config, say)


def note_emulated(precisions: Iterable[str], device: torch.device, say: Callable[[str], None]) -> None:
    """Say in a line each which precisions of runs are taken though this machine is slow in them.

    Args:
        precisions: Of the runs that begin or go on.
        device: Where they train.
        say: Told.
    """
    for precision in sorted(set(precisions)):
        if _is_emulated(precision, device):
            say(
                f"train.precision={precision} was asked for or begun with and is taken, but {_emulated(precision)}; "
                "fp32 is faster"
            )


def limit_workers(config: RunConfig, say: Callable[[str], None]) -> RunConfig:
    """Return the run with no more processes for decoding than this machine has cores, and a line about it."""
    return config.model_copy(update={"data": _with_few_workers(config.data, "data", say)})


def _with_few_workers(data: DataSpec, key: str, say: Callable[[str], None]) -> DataSpec:
    """Do the same for one part of a configuration, and for the images that it makes its own of."""
    changed: dict[str, Any] = {}
    asked = getattr(data, "workers", 0)
    taken = usable_workers(asked)
    if asked != taken:
        say(f"{key}.workers={asked} was asked for, taken is {taken}: there are {taken} cores; the results are the same")
        changed["workers"] = taken
    if isinstance(images := getattr(data, "images", None), DataSpec):
        changed["images"] = _with_few_workers(images, f"{key}.images", say)
    return data.model_copy(update=changed)


def _is_emulated(precision: str, device: torch.device) -> bool:
    """Return whether the device is a CPU that does not itself multiply in it."""
    native = precision == "fp32" or (precision == "bf16" and not BF16_FLAGS.isdisjoint(_cpu_flags()))
    return device.type == "cpu" and not native


def _emulated(precision: str) -> str:
    return f"this CPU only emulates {precision}, which is much slower"


def _sets_precision(asked: Sequence[str]) -> bool:
    return any(override.partition("=")[0].strip() in ("train.precision", "train") for override in asked)


def _cpu_flags(path: Path = Path("/proc/cpuinfo")) -> frozenset[str]:
    """Return what the first processor can do; nothing where the system does not say."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return frozenset()
    flags = (line.partition(":")[2].split() for line in lines if line.startswith(("flags", "Features")))
    return frozenset(next(flags, []))

"""How much memory a training run will take, found out from two tiny steps before anything large is allocated."""

import weakref
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from isospike.errors import ConfigError
from isospike.layers import MEMORY, BatchNorm, statistics_known
from isospike.models import SpikingResNet

TRIALS = (2, 4)  # images; what a step holds is a straight line over them, as over any batch
PROCESS = 30e6  # bytes that PyTorch takes for its first step
FRAGMENTED = 1.25  # of what is alive, where freed memory is kept (docs/performance.md)


@dataclass(frozen=True)
class Plan:
    """Predicted peak of one process's training step, in bytes above what the process held before.

    Args:
        memory: Name in ``MEMORY``.
        weights: Parameters, buffers and what the optimiser keeps of them.
        alive: Activations and gradients alive at the worst moment.
        held: Factor of ``alive`` that the allocator holds.
    """

    memory: str
    weights: float
    alive: float
    held: float

    @property
    def total(self) -> float:
        """All of it."""
        return self.weights + self.alive * self.held + PROCESS


def plan_training(
    model: SpikingResNet, *, batch: int, size: int, memory: str, moments: int = 1, keeps_freed: bool = True
) -> Plan:
    """Predict what training ``model`` in one mode of memory takes.

    Args:
        model: Where it will be trained; it stays as it is.
        batch: Images of one forward.
        size: Their height and width.
        memory: Name in ``MEMORY``.
        moments: Numbers that the optimiser keeps per parameter: 1 for SGD with momentum, 2 for AdamW.
        keeps_freed: Whether the allocator keeps freed memory (``keep_freed_memory``).
    """
    groups = [module.process_group for module in model.modules() if isinstance(module, BatchNorm)]
    trial = deepcopy(model, {id(group): group for group in groups}).train()  # a group of processes cannot be copied
    trial.memory = memory
    few, more = (_alive_in_a_step(trial, images, size) for images in TRIALS)
    per_image = (more - few) / (TRIALS[1] - TRIALS[0])
    weights = sum(p.nbytes * (1 + moments) for p in model.parameters()) + sum(b.nbytes for b in model.buffers())
    alive = few + per_image * (batch - TRIALS[0])
    return Plan(memory, weights, alive, FRAGMENTED if keeps_freed and memory == "fast" else 1.0)


def check_fits(plans: dict[str, Plan], memory: str, available: float) -> None:
    """Refuse a run that cannot fit.

    Args:
        plans: By name of ``MEMORY``.
        memory: The one that is asked for.
        available: Bytes that are free.

    Raises:
        ConfigError: it needs more; the text says how much, and which mode would fit.
    """
    if plans[memory].total <= available:
        return
    fitting = next((name for name in MEMORY if plans[name].total <= available), None)
    advice = "take a smaller train.batch_size, or cut it by train.accumulate"
    if fitting is not None:
        advice = f"with train.memory={fitting} it needs about {plans[fitting].total / 1e9:.1f} GB"
    needed = plans[memory].total / 1e9
    raise ConfigError(f"training needs about {needed:.1f} GB of memory and {available / 1e9:.1f} GB are free: {advice}")


def available_memory(device: torch.device) -> float:
    """Bytes that a process can still allocate on a device."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    free = _meminfo("MemAvailable")
    files = [Path("/sys/fs/cgroup") / name for name in ("memory.max", "memory.current")]  # of a container
    if all(file.is_file() for file in files) and files[0].read_text().strip() != "max":
        free = min(free, int(files[0].read_text()) - int(files[1].read_text()))
    return free


def _meminfo(key: str) -> float:
    line = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith(key + ":"))
    return int(line.split()[1]) * 1024


def _alive_in_a_step(model: SpikingResNet, images: int, size: int) -> int:
    """Most bytes that a forward and backward of so many images had alive at once, parameters aside."""
    weight = next(model.parameters())
    x = torch.zeros(images, model.in_channels, size, size, device=weight.device)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # too little work to share
    try:
        with statistics_known(), _Alive() as alive:
            model(x).sum().backward()
    finally:
        torch.set_num_threads(threads)
    model.zero_grad()
    return alive.peak


class _Alive(TorchDispatchMode):
    """Counts the bytes of every storage from the operation that made it to its end."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._sizes: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._count(leaf.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self._sizes:
            return
        self._sizes[key] = storage.nbytes()
        self.now += storage.nbytes()
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._forget, key)

    def _forget(self, key: int) -> None:
        self.now -= self._sizes.pop(key, 0)

"""How much memory a training run will take, found out from tiny steps before anything large is allocated."""

import weakref
from collections.abc import Callable, Iterable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from itertools import accumulate, chain
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from isospike.config import RunConfig
from isospike.data import Dataset
from isospike.errors import ConfigError
from isospike.layers import MEMORY, BatchNorm, statistics_known
from isospike.models import SpikingNetwork
from isospike.train.step import PRECISIONS

SMALLEST_TRIAL, LARGEST_TRIAL = 2, 32  # images
SMALL = 2**18  # bytes that do not matter
PROCESS = 22e6  # bytes that PyTorch takes for its first steps: 10 MB at one image, 10 to 25 MB at 32
# Where freed memory is kept, by benchmarks/held.py: the largest tensor finds no hole once or twice, though there is
# room enough in smaller ones, and gradients, which stay where they were made, keep so much of their bytes from use.
HOLES, APART = 1.5, 0.5


@dataclass(frozen=True)
class MemoryPlan:
    """Predicted peak of one process's training step, in bytes.

    Args:
        memory: Name in ``MEMORY``.
        model: Parameters and buffers, with their moving average where there is one.
        optimizer: What the optimiser keeps of the parameters.
        alive: Activations and gradients alive at the worst moment.
        wasted: What the allocator holds besides, where it keeps freed memory.
    """

    memory: str
    model: float
    optimizer: float
    alive: float
    wasted: float

    @property
    def further(self) -> float:
        """What a process takes that holds the model already."""
        return self.optimizer + self.alive + self.wasted + PROCESS

    @property
    def total(self) -> float:
        """What a process takes that holds nothing yet."""
        return self.model + self.further


def plan_training(
    model: SpikingNetwork,
    *,
    batch: int,
    size: int,
    memory: str,
    steps: int | None = None,
    moments: int = 1,
    averaged: bool = False,
    autocast: torch.dtype | None = None,
    keeps_freed: bool = True,
) -> MemoryPlan:
    """Predict what training ``model`` in one mode of memory takes.

    Args:
        model: Where it will be trained; it stays as it is.
        batch: Images of one forward.
        size: Their height and width.
        memory: Name in ``MEMORY``.
        steps: Time steps of recordings; None: images that do not move.
        moments: Numbers that the optimiser keeps per parameter: 1 for SGD with momentum, 2 for AdamW.
        averaged: Whether a moving average of the weights is kept.
        autocast: Precision of the forward; ``None`` for that of the parameters.
        keeps_freed: Whether malloc keeps freed memory (``keep_freed_memory``); nothing on a GPU comes from malloc.
    """
    groups = [module.process_group for module in model.modules() if isinstance(module, BatchNorm)]
    trial = deepcopy(model, {id(group): group for group in groups}).train()  # a group of processes cannot be copied
    trial.memory = memory
    parameters, buffers = (sum(t.nbytes for t in tensors) for tensors in (model.parameters(), model.buffers()))
    alive, largest = _at_most(batch, lambda images: lives_of_a_step(trial, images, size, steps, autocast))
    has_holes = keeps_freed and memory == "fast" and next(model.parameters()).device.type != "cuda"
    wasted = HOLES * largest + APART * parameters if has_holes else 0.0
    copies = 2 if averaged else 1
    return MemoryPlan(memory, copies * (parameters + buffers), moments * parameters, alive, wasted)


def plan_run(config: RunConfig, model: SpikingNetwork, data: Dataset, memory: str | None = None) -> MemoryPlan:
    """Predict what a step of a run takes in each of its processes.

    Args:
        config: The run.
        model: Its network, where it will be trained.
        data: Its images or recordings.
        memory: Name in ``MEMORY``; None: as the run says.
    """
    train = config.train
    return plan_training(
        model,
        batch=train.batch_size // train.accumulate,
        size=data.size,
        steps=config.augment.keep_steps or data.T,
        memory=memory or train.memory,
        moments=config.optim.moments,
        averaged=train.ema is not None,
        autocast=PRECISIONS[train.precision],
    )


def check_fits(plans: dict[str, MemoryPlan], memory: str, available: float) -> None:
    """Refuse a run whose model is built and whose steps cannot fit.

    Args:
        plans: By name of ``MEMORY``.
        memory: The one that is asked for.
        available: Bytes that are free.

    Raises:
        ConfigError: it needs more; the text says how much, and which mode would fit.
    """
    if plans[memory].further <= available:
        return
    fitting = next((name for name in MEMORY if plans[name].further <= available), None)
    advice = "take a smaller train.batch_size, or cut it by train.accumulate"
    if fitting is not None:
        advice = f"with train.memory={fitting} it needs about {plans[fitting].further / 1e9:.1f} GB"
    needed = plans[memory].further / 1e9
    raise ConfigError(f"training needs about {needed:.1f} GB of memory and {available / 1e9:.1f} GB are free: {advice}")


@dataclass(frozen=True)
class Lives:
    """The tensors of a step of so many ``images``.

    Args:
        order: The number of every storage as it is made, and its complement as it ends.
        sizes: Bytes, by number.
    """

    images: int
    order: list[int]
    sizes: Sequence[float]

    @property
    def peak(self) -> float:
        """Most bytes alive at once."""
        changes = (self.sizes[number] if number >= 0 else -self.sizes[~number] for number in self.order)
        return max(accumulate(changes))


def _at_most(batch: int, lives: Callable[[int], Lives]) -> tuple[float, float]:
    """Return the most bytes that a step of ``batch`` images has alive at once, and in one tensor.

    Every tensor is a straight line over the images. The moment at which most is alive changes with them, so it is
    looked for among the lines. Two trials that do not make the same tensors, because ops choose their way by the size
    of their input, are followed by a larger one; of the largest ones only the peaks are left to draw a line through.
    """
    few = more = lives(min(SMALLEST_TRIAL, batch))
    while more.images < min(batch, LARGEST_TRIAL):
        few, more = more, lives(min(2 * more.images, batch))
        if _do_the_same(few, more):
            sizes = [_on_line(batch, few, more, a, b) for a, b in zip(few.sizes, more.sizes, strict=True)]
            return Lives(batch, more.order, sizes).peak, max(sizes)
    largest = _on_line(batch, few, more, max(few.sizes), max(more.sizes))
    return _on_line(batch, few, more, few.peak, more.peak), largest


def _do_the_same(few: Lives, more: Lives) -> bool:
    """Return whether the same tensors are made, of a size that is fixed or grows with the images."""
    growth = more.images / few.images
    pairs = zip(few.sizes, more.sizes, strict=False)
    return few.order == more.order and all(b - a < SMALL or abs(b - a * growth) < 0.05 * b for a, b in pairs)


def _on_line(batch: int, few: Lives, more: Lives, a: float, b: float) -> float:
    """Extend the line through ``a`` at few images and ``b`` at more of them to ``batch`` images."""
    return b if batch == more.images else a + (b - a) / (more.images - few.images) * (batch - few.images)


def lives_of_a_step(
    model: SpikingNetwork, images: int, size: int, steps: int | None, autocast: torch.dtype | None
) -> Lives:
    """Record the tensors of a forward and backward, of images that differ, as neurons of a blank one would not fire."""
    device = next(model.parameters()).device
    generator = torch.Generator(device).manual_seed(0)
    shape = (images, model.in_channels, size, size)
    x = torch.randn(shape if steps is None else (steps, *shape), device=device, generator=generator)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # too little work to share
    try:
        with statistics_known(), _StorageRecorder(chain(model.parameters(), model.buffers())) as recorder:
            with torch.autocast(device.type, autocast, enabled=autocast is not None):
                logits = model(x)
            logits.float().sum().backward()
    finally:
        torch.set_num_threads(threads)
    model.zero_grad()
    return Lives(images, list(recorder.order), recorder.sizes)


class _StorageRecorder(TorchDispatchMode):
    """Sees every storage but those of ``known`` tensors, from the operation that made it to its end."""

    def __init__(self, known: Iterable[Tensor]) -> None:
        super().__init__()
        self.order: list[int] = []
        self.sizes: list[float] = []
        self._known = {tensor.untyped_storage()._cdata for tensor in known}
        self._alive: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._see(leaf.untyped_storage())
        return result

    def _see(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self._alive or key in self._known:
            return
        self._alive[key] = len(self.sizes)
        self.order.append(len(self.sizes))
        self.sizes.append(storage.nbytes())
        weakref.finalize(storage, self._forget, key)

    def _forget(self, key: int) -> None:
        self.order.append(~self._alive.pop(key))

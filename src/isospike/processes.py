"""One process or several: what torchrun says, and the few collective operations that training needs."""

import gc
import inspect
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from isospike.errors import ConfigError, IsospikeError
from isospike.layers import synchronise_norms
from isospike.malloc import keep_freed_memory

T = TypeVar("T")


@dataclass(frozen=True)
class World:
    """This process among all; a single process is a world of its own."""

    rank: int
    size: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        """Whether this process writes and talks."""
        return self.rank == 0

    def sum(self, tensor: Tensor) -> Tensor:
        """Sum over all processes."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def any(self, flag: bool) -> bool:
        """Return whether the flag is set in any process."""
        return flag if self.size == 1 else bool(self.sum(torch.tensor(float(flag), device=self.device)))

    def agree(self, value: T) -> T:
        """Return the first process's value, in all of them."""
        values = [value]
        if self.size > 1:
            dist.broadcast_object_list(values, src=0)
        return values[0]

    def first_does(self, work: Callable[[], None]) -> None:
        """Let the first process do something that all wait for; where it refuses, all do.

        Raises:
            IsospikeError: what ``work`` raised.
        """
        refusal: IsospikeError | None = None
        if self.is_first:
            try:
                work()
            except IsospikeError as error:
                refusal = error
        refusal = self.agree(refusal)
        if refusal is not None:
            raise refusal

    def gather(self, value: T) -> list[T]:
        """Return the values of all processes, by rank."""
        values = [value] * self.size
        if self.size > 1:
            dist.all_gather_object(values, value)
        return values

    def wrap(self, model: nn.Module, *, sync_norm: bool) -> nn.Module:
        """Wrap the model to average gradients over the processes, and to join batch statistics on request."""
        if self.size == 1:
            return model
        if sync_norm and dist.group.WORLD is not None:
            synchronise_norms(model, dist.group.WORLD)
        # torch 2.13 renames this option; running statistics are shared before a test, and no forward needs them.
        new_name = "forward_sync_buffers" in inspect.signature(DistributedDataParallel).parameters
        option: dict[str, Any] = {"forward_sync_buffers" if new_name else "broadcast_buffers": False}
        return DistributedDataParallel(model, **option)

    def share_buffers(self, model: nn.Module) -> None:
        """Give all processes the running statistics of the first, so that all test the same network."""
        if self.size > 1:
            for buffer in model.buffers():
                dist.broadcast(buffer, src=0)


@contextmanager
def open_world(device: str) -> Iterator[World]:
    """Join the processes that torchrun started, or stand alone; on a CPU, also set up its memory for training.

    Args:
        device: "auto" takes a GPU where there is one; or "cpu", "cuda", "cuda:1".

    Raises:
        ConfigError: no such device.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    rank = int(os.environ.get("RANK", "0"))
    chosen = choose_device(device, int(os.environ.get("LOCAL_RANK", "0")))
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    else:
        keep_freed_memory()
    if size == 1:
        yield World(0, 1, chosen)
        return
    dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
    try:
        yield World(rank, size, chosen)
    finally:
        gc.collect()  # a wrapped model left in a reference cycle would keep gloo's threads alive into the exit
        dist.destroy_process_group()


def choose_device(name: str, local_rank: int = 0) -> torch.device:
    """Return the device of a process.

    Args:
        name: As of ``open_world``.
        local_rank: Of the process on its machine; picks the GPU where the name says no number.

    Raises:
        ConfigError: no such device.
    """
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        name = "cuda" if gpus else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"device must be auto, cpu, cuda or cuda:N, got '{name}'") from error
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"device must be auto, cpu, cuda or cuda:N, got '{name}'")
    if device.type == "cpu":
        return device
    index = local_rank if device.index is None else device.index
    if index >= gpus:
        raise ConfigError(
            f"device '{name}': PyTorch sees {gpus} GPUs here" + ("; use --device cpu" if not gpus else "")
        )
    return torch.device("cuda", index)

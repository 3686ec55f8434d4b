"""Results on their way from the device to the host."""

from collections import deque
from collections.abc import Iterator
from typing import Generic, TypeVar

import torch
from torch import Tensor

What = TypeVar("What")


class Readback(Generic[What]):
    """Hands out what steps found once as many steps lie behind it as ``behind`` says.

    A GPU then has its next work before the host waits for the last, and is never idle.

    Args:
        behind: Steps; 0 hands out at once.
    """

    def __init__(self, behind: int) -> None:
        self.behind = behind
        self._waiting: deque[tuple[What, Tensor, torch.cuda.Event | None]] = deque()

    def put(self, what: What, found: Tensor) -> None:
        """Start the copy of ``found``, numbers of the step ``what``."""
        if not found.is_cuda:
            self._waiting.append((what, found, None))
            return
        host = torch.empty(found.shape, dtype=found.dtype, pin_memory=True).copy_(found, non_blocking=True)
        arrived = torch.cuda.Event()
        arrived.record()
        self._waiting.append((what, host, arrived))

    def ready(self) -> Iterator[tuple[What, list[float]]]:
        """Yield the steps that lie far enough back, in their order."""
        while len(self._waiting) > self.behind:
            yield self._next()

    def all(self) -> Iterator[tuple[What, list[float]]]:
        """Yield all that are left, in their order."""
        while self._waiting:
            yield self._next()

    def _next(self) -> tuple[What, list[float]]:
        what, host, arrived = self._waiting.popleft()
        if arrived:
            arrived.synchronize()
        return what, host.tolist()

"""Requests that come one by one, and go through the network together."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import Any, Generic, TypeVar

Given = TypeVar("Given")
Result = TypeVar("Result")


class Batches(Generic[Given, Result]):
    """Collects what is given until there are ``size``, or the first has waited for ``delay`` seconds.

    While the network runs, others gather, so under load batches are full and nobody waits for the delay.

    Args:
        run: What makes results of a batch, in ``executor``.
        executor: With one thread: the network runs one batch at a time.
        size: Of a batch at most.
        delay: Seconds.
        seen: Called with the size of every batch.
    """

    def __init__(
        self,
        run: Callable[[Sequence[Given]], Sequence[Result]],
        executor: Executor,
        *,
        size: int,
        delay: float,
        seen: Callable[[int], Any] = lambda size: None,
    ) -> None:
        self._run, self._executor, self._size, self._delay, self._seen = run, executor, size, delay, seen
        self._queue: asyncio.Queue[tuple[Given, asyncio.Future[Result]]] = asyncio.Queue()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to take batches, in the loop that runs."""
        self._task = asyncio.create_task(self._forever())

    async def stop(self) -> None:
        """Take no more; what waits is cancelled."""
        assert self._task is not None, "start() was not called"
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        while not self._queue.empty():
            self._queue.get_nowait()[1].cancel()

    async def __call__(self, given: Given) -> Result:
        """Return the result of one, once its batch has run."""
        result: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._queue.put_nowait((given, result))
        return await result

    async def _forever(self) -> None:
        while True:
            batch = [pair for pair in await self._collected() if not pair[1].done()]  # not of those who have left
            if batch:
                await self._answer(batch)

    async def _collected(self) -> list[tuple[Given, "asyncio.Future[Result]"]]:
        batch = [await self._queue.get()]
        end = asyncio.get_running_loop().time() + self._delay
        while len(batch) < self._size:
            try:
                batch.append(self._queue.get_nowait())
            except asyncio.QueueEmpty:
                left = end - asyncio.get_running_loop().time()
                if left <= 0:
                    break
                try:
                    batch.append(await asyncio.wait_for(self._queue.get(), left))
                except TimeoutError:
                    break
        return batch

    async def _answer(self, batch: list[tuple[Given, "asyncio.Future[Result]"]]) -> None:
        self._seen(len(batch))
        loop = asyncio.get_running_loop()
        try:
            results = await loop.run_in_executor(self._executor, self._run, [given for given, _ in batch])
        except asyncio.CancelledError:
            for _, future in batch:
                future.cancel()
            raise
        except Exception as error:  # noqa: BLE001  whatever it is, each of those who wait must hear of it
            for _, future in batch:
                if not future.done():
                    future.set_exception(error)
            return
        for (_, future), result in zip(batch, results, strict=True):
            if not future.done():
                future.set_result(result)

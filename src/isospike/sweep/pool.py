"""Processes that train cells: started once each, with the images in shared memory.

They are spawned, not forked: the threads of OpenMP do not survive a fork. A process that dies takes its cell with it
and is replaced.
"""

import os
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any, NamedTuple, Self

import torch
import torch.multiprocessing
from rich.console import Console

from isospike.config import RunConfig
from isospike.data import Dataset
from isospike.own_rows import import_installed, import_rows, imported
from isospike.processes import World, open_world
from isospike.run_folder import RunFolder
from isospike.sweep.cell import EXPECTED, Ending, run_cell
from isospike.train.display import PlainDisplay
from isospike.train.stopping import StopRequest

POLL_SECONDS = 0.5  # how soon a signal is passed on
LOG = "log.txt"


class Task(NamedTuple):
    """A cell to train: its run folder, its configuration, and which of the data sets it reads."""

    folder: str
    config: RunConfig
    data: str


class Result(NamedTuple):
    """How a task ended: its folder, "done", "interrupted", or "failed", and why."""

    folder: str
    how: str
    reason: str


class Pool:
    """``count`` processes with ``threads`` threads each, alive inside a ``with`` block."""

    def __init__(self, count: int, datasets: Mapping[str, Dataset], device: str, threads: int) -> None:
        self.arguments = (list(imported()), datasets, device, threads)
        self.workers = [_Worker(self.arguments) for _ in range(count)]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        for worker in self.workers:
            worker.end()

    def run(self, tasks: Sequence[Task], stop: StopRequest) -> Iterator[Result]:
        """Do all tasks, or after a signal only those that are under way; results as they come."""
        waiting = list(tasks)
        told = False
        while True:
            for worker in self.workers:
                if worker.task is None and waiting and not stop:
                    worker.give(waiting.pop(0))
            busy = [worker for worker in self.workers if worker.task is not None]
            if not busy:
                return
            if stop and not told:
                told = True
                for worker in busy:
                    worker.process.terminate()
            wait([place for worker in busy for place in (worker.pipe, worker.process.sentinel)], POLL_SECONDS)
            for worker in busy:
                result = worker.take(stopped=bool(stop))
                if result is not None:
                    yield result
            self.workers = [
                _Worker(self.arguments) if worker.is_dead and waiting and not stop else worker
                for worker in self.workers
            ]


class _Worker:
    """One process of the pool, seen from outside."""

    def __init__(self, arguments: tuple[Any, ...]) -> None:
        context = torch.multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process: SpawnProcess = context.Process(target=_work, args=(theirs, *arguments), daemon=True)
        self.process.start()
        theirs.close()
        self.task: Task | None = None
        self.is_dead = False

    def give(self, task: Task) -> None:
        self.task = task
        self.pipe.send(task)

    def take(self, *, stopped: bool) -> Result | None:
        """Return the result of the task, once there is one."""
        assert self.task is not None
        folder = self.task.folder
        try:
            if not self.pipe.poll() and self.process.is_alive():
                return None
            result = Result(folder, *self.pipe.recv())
        except (EOFError, ConnectionError):
            self.process.join()
            self.is_dead = True
            result = Result(folder, "interrupted", "") if stopped else Result(folder, "failed", self._how_it_died())
        self.task = None
        return result

    def end(self) -> None:
        """Let it go; a process that still works is told to stop, and is waited for."""
        self.pipe.close()
        if self.task is not None:
            self.process.terminate()
        self.process.join()

    def _how_it_died(self) -> str:
        code = self.process.exitcode or 0
        if code < 0:
            name = signal.Signals(-code).name
            hint = ", perhaps for lack of memory: try fewer --jobs" if name == "SIGKILL" else ""
            return f"its process was ended by {name}{hint}"
        return f"its process ended with exit code {code}; what it printed says why"


def _work(pipe: Connection, rows: Sequence[str], datasets: Mapping[str, Dataset], device: str, threads: int) -> None:
    """Take tasks in a process and give results until the pipe is closed."""
    import_installed()
    import_rows(rows)
    os.setpgid(0, 0)  # Ctrl-C goes to all of a terminal's group: the first process passes it on, once
    threading.Thread(target=_follow_parent, daemon=True).start()
    torch.set_num_threads(threads)
    with open_world(device) as world:
        while True:
            try:
                task: Task = pipe.recv()
            except EOFError:
                return
            try:
                pipe.send((_train(task, datasets[task.data], world), ""))
            except EXPECTED as error:
                pipe.send(("failed", str(error)))


def _train(task: Task, dataset: Dataset, world: World) -> Ending:
    """Train a cell and tell of it in its own log."""
    run = RunFolder(task.folder)
    run.path.mkdir(parents=True, exist_ok=True)
    with (run.path / LOG).open("a", encoding="utf-8") as log:
        return run_cell(task.config, dataset, run, world, PlainDisplay(Console(file=log, width=200)))


def _follow_parent() -> None:
    """Save and stop when the process that started this one is gone."""
    parent = torch.multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)

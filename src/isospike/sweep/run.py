"""The cells of a sweep one after the other, or several at once in processes that share the images."""

import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from isospike.data import Dataset, DataSpec, load_dataset
from isospike.data.images import ArrayImages
from isospike.errors import ConfigError
from isospike.memory import available_memory
from isospike.models import ModelCard, model_card
from isospike.processes import open_world
from isospike.run_folder import locked
from isospike.sweep.cell import EXPECTED, is_finished, note_failure, run_cell
from isospike.sweep.plan import Cell, Sweep
from isospike.sweep.pool import Pool, Task
from isospike.train.build import build_model
from isospike.train.display import Display
from isospike.train.plan import plan_run
from isospike.train.stopping import StopRequest, listen_for_signals

IMPORTED = 300e6  # bytes of a process with PyTorch and this package in it (measured: 260 MB)
SHARED = Path("/dev/shm")


@dataclass(frozen=True)
class Ended:
    """A cell that needs no more work for now: "done", "interrupted", or "failed" with the reason."""

    cell: Cell
    how: str
    reason: str = ""


def run_sweep(
    sweep: Sweep, *, jobs: int | None, device: str, display: Callable[[], Display], say: Callable[[str], None]
) -> Iterator[Ended]:
    """Train and measure what is left of a sweep, and tell of every cell when it ends.

    Seed by seed, so that a whole picture is there early, and the deepest first. A cell that fails is noted in its
    folder and stops no other. After a signal to stop the cells that run save their state, and nothing new begins.

    Args:
        sweep: The plan; its folder exists.
        jobs: Cells at once; None: as many as there are cores and memory for, on a GPU one.
        device: As of ``open_world``.
        display: Makes what is told of the steps, where cells run one after the other; several at once write
            ``log.txt`` into their folders.
        say: Told once how the work is shared out.

    Raises:
        ConfigError: another process works on this sweep; there is no such device; the images do not fit.
    """
    with locked(sweep.path, "sweep"), listen_for_signals() as stop:
        left = [cell for cell in sweep.cells if not is_finished(sweep.folder(cell))]
        if not left:
            return
        datasets = {key: load_dataset(spec) for key, spec in _data(left).items()}
        cards = _cards(left, datasets)
        costs = {cell.name: cards[_network(cell)].macs * cell.config.train.epochs for cell in left}
        left.sort(key=lambda cell: (sweep.plan.seeds.index(cell.seed), -costs[cell.name]))
        cores = min(len(os.sched_getaffinity(0)), torch.get_num_threads())
        count = min(len(left), jobs or _jobs(device, cores, lambda: _memory(left, cards, datasets)))
        threads = max(1, cores // count)
        say(f"{len(left)} of {len(sweep.cells)} cells to train, {count} at once, threads of each: {threads}")
        if count == 1:
            yield from _one_by_one(sweep, left, datasets, device, display, stop)
        else:
            yield from _at_once(sweep, left, datasets, device, count, threads, stop)


def _one_by_one(
    sweep: Sweep,
    cells: Sequence[Cell],
    datasets: Mapping[str, Dataset],
    device: str,
    display: Callable[[], Display],
    stop: StopRequest,
) -> Iterator[Ended]:
    with open_world(device) as world:
        for cell in cells:
            if stop:
                return
            run = sweep.folder(cell)
            try:
                ended = Ended(cell, run_cell(cell.config, datasets[_key(cell)], run, world, display()))
            except EXPECTED as error:
                note_failure(run, str(error))
                ended = Ended(cell, "failed", str(error))
            yield ended
            if ended.how == "interrupted":
                return


def _at_once(
    sweep: Sweep,
    cells: Sequence[Cell],
    datasets: Mapping[str, Dataset],
    device: str,
    count: int,
    threads: int,
    stop: StopRequest,
) -> Iterator[Ended]:
    _check_shared_memory(datasets)
    by_folder = {str(sweep.folder(cell).path): cell for cell in cells}
    with Pool(count, datasets, device, threads) as pool:
        tasks = [Task(folder, cell.config, _key(cell)) for folder, cell in by_folder.items()]
        for folder, how, reason in pool.run(tasks, stop):
            if how == "failed":
                note_failure(sweep.folder(by_folder[folder]), reason)
            yield Ended(by_folder[folder], how, reason)


# What fits ---------------------------------------------------------------------------------------------------------


def _jobs(device: str, cores: int, cell_bytes: Callable[[], float]) -> int:
    """Return as many cells as there are cores and memory for; nobody shares a GPU unless asked to."""
    if device.startswith("cuda") or (device == "auto" and torch.cuda.is_available()):
        return 1
    if cores == 1:
        return 1
    return max(1, min(cores, int(available_memory(torch.device("cpu")) // cell_bytes())))


def _memory(cells: Sequence[Cell], cards: Mapping[str, ModelCard], datasets: Mapping[str, Dataset]) -> float:
    """Return the bytes that a process takes for the largest cell, PyTorch itself included."""

    def activations(cell: Cell) -> int:
        card, train = cards[_network(cell)], cell.config.train
        return card.neurons * card.T * train.batch_size // train.accumulate

    largest = max(cells, key=activations)
    config, data = largest.config, datasets[_key(largest)]
    model = build_model(config, num_classes=len(data.classes), in_channels=data.channels)
    return IMPORTED + plan_run(config, model, data).total


def _check_shared_memory(datasets: Mapping[str, Dataset]) -> None:
    splits = [split for data in datasets.values() for split in (data.train, data.test)]
    needed = sum(split.images.nbytes + split.labels.nbytes for split in splits if isinstance(split, ArrayImages))
    free = shutil.disk_usage(SHARED).free if SHARED.exists() else needed
    if free < needed:
        raise ConfigError(
            f"the images take {needed / 1e6:,.0f} MB of shared memory and {SHARED} has {free / 1e6:,.0f} MB: "
            "give it more, or run one cell at a time with --jobs 1"
        )


# What is shared ----------------------------------------------------------------------------------------------------


def _key(cell: Cell) -> str:
    """Return a key that cells have in common which read the same images."""
    return cell.config.data.model_dump_json()


def _data(cells: Sequence[Cell]) -> dict[str, DataSpec]:
    return {_key(cell): cell.config.data for cell in cells}


def _network(cell: Cell) -> str:
    """Return what cells have in common whose network and images are the same, and so their card."""
    return cell.config.model.model_dump_json() + _key(cell)


def _cards(cells: Sequence[Cell], datasets: Mapping[str, Dataset]) -> dict[str, ModelCard]:
    """Count the cards on the size of the images; how many classes there are changes next to nothing."""
    cards = {}
    for network, cell in {_network(cell): cell for cell in cells}.items():
        data = datasets[_key(cell)]
        cards[network] = model_card(**cell.config.model.model_dump(), input_size=data.size, in_channels=data.channels)
    return cards

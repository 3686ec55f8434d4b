"""One case measured: trial of settings, equality, interleaved repeats, peak memory."""

import itertools
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from isospike.bench.cases import EXACT_LIF, Case
from isospike.bench.compare import Check, alike, closely, exactly
from isospike.bench.contestants import PEERS, Contestant, Setting
from isospike.bench.describe import describe, event_tensors, fire_tensors, firing_share, network_tensors
from isospike.bench.limits import additions_of, traffic_of
from isospike.bench.worker import GIVES_BACK, Worker
from isospike.errors import RunFailed
from isospike.export.onnx import OPSET, export_onnx
from isospike.models import SpikingResNet, create_model

LEAST_SECONDS = 0.1  # of one turn of a contestant: short work is repeated and its median taken
FEWEST = 3  # repeats, however long they take
CHECKED_IMAGES = 2  # in float64

Row = dict[str, Any]


class Runs(Protocol):
    """What can be timed."""

    def run(self, least: float = 0.0) -> float:
        """Run the work for at least so many seconds, and return the seconds of one run."""


@dataclass(frozen=True)
class Plan:
    """How a case is measured.

    Args:
        device: As in PyTorch.
        threads: Of every contestant's processor.
        repeats: Turns of every contestant, at least 2.
        seconds: No further repeats are begun after so many seconds.
    """

    device: str
    threads: int
    repeats: int = 9
    seconds: float = 30.0


def measure_case(case: Case, competing: Sequence[Contestant], plan: Plan) -> Row:
    """Measure a row of the table.

    Raises:
        RunFailed: a contestant cannot do the work in any of its settings.
    """
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        job = _job(case, plan.device, folder / "tensors.pt")
        by_name = {contestant.name: contestant for contestant in competing}
        rows, workers = _start(job, competing, plan, stack)
        seconds = interleaved(workers, plan.repeats, plan.seconds)
        for row in rows:
            row["seconds"] = summary(seconds[row["name"]])
        equality = _equality(case, rows, workers, folder, job, by_name, plan)
        for worker in workers.values():
            worker.close()  # the peaks need the room
        for row in (row for row in rows if row["role"] != "floor"):
            row["peak_memory_mb"] = _peak({**job, "setting": row["setting"]}, by_name[row["name"]], plan)
    facts = asdict(case)
    about = {"device": plan.device, "firing": job.get("firing"), "amount": job.get("amount")}
    return {**facts, **about, "contestants": rows, "equality": equality}


def interleaved(workers: Mapping[str, Runs], repeats: int, seconds: float) -> dict[str, list[float]]:
    """Time every contestant in turn, so that what slows the machine slows all of them."""
    found: dict[str, list[float]] = {name: [] for name in workers}
    began = time.perf_counter()
    for number in range(repeats):
        if number >= FEWEST and time.perf_counter() - began > seconds:
            break
        for name, worker in workers.items():
            found[name].append(worker.run(LEAST_SECONDS))
    return found


def summary(values: Sequence[float]) -> dict[str, Any]:
    """Return the median, the quartiles and the values themselves."""
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return {"median": statistics.median(values), "quartiles": [low, high], "all": list(values)}


def _job(case: Case, device: str, tensors: Path) -> dict[str, Any]:
    """Write the tensors of a case, and return what every contestant is told."""
    job = {**asdict(case), "device": device, "tensors": str(tensors)}
    if case.fires:
        torch.save(fire_tensors(case.T, case.batch, case.number, case.size), tensors)
        return {**job, "neuron": EXACT_LIF, "amount": traffic_of(case)}
    if case.counts:
        torch.save(event_tensors(case.number, case.size), tensors)
        return job
    torch.manual_seed(0)
    model = create_model(case.model, T=1 if case.converts else case.T, **case.options)
    files = PEERS[case.peer].files if case.peer is not None else ()
    net = describe(model) if case.peer is not None and not files else None
    made = network_tensors(model, case.batch, case.size)
    torch.save(made, tensors)
    if case.converts:
        return {**job, "net": net}
    job["files"] = _files(model, files, case.size, tensors.parent)
    job |= {"net": net, "firing": firing_share(model, made["x"])}
    return {**job, "amount": additions_of(case, model, made["x"]) if device == "cpu" else None}


def _files(model: SpikingResNet, files: Sequence[tuple[str, str]], size: int, folder: Path) -> dict[str, str]:
    """Export a network in these forms and precisions, and for the comparison each form in float64 as well."""
    double = deepcopy(model).double() if files else model
    exact = dict.fromkeys((form, "float64") for form, _ in files)
    found = {}
    for form, precision in (*files, *exact):
        found[f"{form} {precision}"] = path = str(folder / f"{form}_{precision}.onnx")
        if precision == "float64":
            export_onnx(double, path, form, size=size)
        else:
            export_onnx(model, path, form, precision=precision, size=size)
    return found


def _start(
    job: Mapping[str, Any], competing: Sequence[Contestant], plan: Plan, stack: ExitStack
) -> tuple[list[Row], dict[str, Worker]]:
    """Warm every contestant up in its best setting."""
    rows: list[Row] = []
    workers: dict[str, Worker] = {}
    best: dict[str, Setting] = {}
    for contestant in competing:
        inherited = best.get(contestant.like or "", {})
        settings = [{**inherited, **setting} for setting in contestant.settings]
        trial = _trial(contestant, settings, job, plan) if len(settings) > 1 else []
        setting = min(trial, key=lambda one: one["seconds"])["setting"] if trial else settings[0]
        tried = [{k: v for k, v in one.items() if v != float("inf")} for one in trial]
        worker = stack.enter_context(Worker(contestant.name, contestant.command, plan.threads))
        versions = worker.prepare({**job, "setting": setting})
        worker.run()
        best[contestant.name], workers[contestant.name] = setting, worker
        facts = {"name": contestant.name, "role": contestant.role, "versions": versions}
        rows.append({**facts, "setting": setting, "trial": tried, **_file_facts(job, setting)})
    return rows, workers


def _file_facts(job: Mapping[str, Any], setting: Setting) -> dict[str, Any]:
    """Return how large the file is that a contestant runs, if it runs one."""
    if "form" not in setting:
        return {}
    path = Path(job["files"][f"{setting['form']} {setting['precision']}"])
    return {"file": {"megabytes": path.stat().st_size / 1e6, "opset": OPSET}}


def _trial(
    contestant: Contestant, settings: Sequence[Setting], job: Mapping[str, Any], plan: Plan
) -> list[dict[str, Any]]:
    """Time every setting once after one run to warm up, in a process each; infinite where it cannot."""
    found: list[dict[str, Any]] = []
    for setting in settings:
        with Worker(contestant.name, contestant.command, plan.threads) as worker:
            try:
                worker.prepare({**job, "setting": setting})
                worker.run()
                seconds = statistics.median(worker.run(LEAST_SECONDS) for _ in range(2))
                found.append({"setting": setting, "seconds": seconds})
            except RunFailed as error:
                found.append({"setting": setting, "seconds": float("inf"), "error": str(error)})
    if all("error" in one for one in found):
        raise RunFailed(found[0]["error"])
    return found


def _peak(job: Mapping[str, Any], contestant: Contestant, plan: Plan) -> float:
    """Measure the peak megabytes of two runs, in a process in which nothing else was done."""
    with Worker(contestant.name, contestant.command, plan.threads, GIVES_BACK) as worker:
        worker.prepare(job)
        for _ in range(2):
            worker.run()
        return worker.memory()


def _equality(
    case: Case,
    rows: Sequence[Row],
    workers: Mapping[str, Worker],
    folder: Path,
    job: Mapping[str, Any],
    competing: Mapping[str, Contestant],
    plan: Plan,
) -> list[dict[str, Any]]:
    """Compare every mode of ours, and every peer, with our first mode."""
    first, *others = (row for row in rows if row["role"] != "floor")
    if not others:
        return []
    timed = {row["name"]: _outputs(workers[row["name"]], folder) for row in (first, *others)}
    for worker in workers.values():
        worker.close()  # float64 needs the room
    peers = [row for row in others if row["role"] == "peer" and case.has_network and not _is_rounded(row)]
    double = _in_float64([first, *peers], folder, job, competing, plan) if peers else {}
    found = []
    for row in others:
        theirs = timed[row["name"]]
        compared = alike if case.has_network or case.converts else exactly
        checks: list[Check] = compared(timed[first["name"]], theirs)
        if row["name"] in double:
            checks += closely(double[first["name"]], double[row["name"]])
        agree = all(check.holds for check in checks)
        found.append({"of": row["name"], "agree": agree, "checks": [check.as_dict() for check in checks]})
    return found


def _is_rounded(row: Row) -> bool:
    """Return whether its weights have 8 bits, so that it is another function."""
    return row["setting"].get("precision") == "int8"


def _in_float64(
    rows: Sequence[Row],
    folder: Path,
    job: Mapping[str, Any],
    competing: Mapping[str, Contestant],
    plan: Plan,
) -> dict[str, Any]:
    """Return the outputs on a few images, in float64."""
    tensors = torch.load(job["tensors"], weights_only=True)
    few = folder / "few.pt"
    torch.save({**tensors, "x": tensors["x"][:CHECKED_IMAGES], "y": tensors["y"][:CHECKED_IMAGES]}, few)
    found = {}
    for row in rows:
        with Worker(row["name"], competing[row["name"]].command, plan.threads) as worker:
            setting = {**row["setting"], "compile": False}
            if "implementation" in setting:
                setting["implementation"] = "auto"  # one asked for by name refuses float64
            worker.prepare({**job, "precision": "float64", "tensors": str(few), "setting": setting})
            found[row["name"]] = _outputs(worker, folder)
    return found


_numbers = itertools.count()


def _outputs(worker: Worker, folder: Path) -> dict[str, torch.Tensor]:
    file = folder / f"outputs{next(_numbers)}.pt"
    worker.outputs(file)
    found: dict[str, torch.Tensor] = torch.load(file, weights_only=True)
    return found

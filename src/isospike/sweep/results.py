"""What a sweep has shown so far, from its run folders: rows, means and spreads, and whether depth cost accuracy."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from statistics import fmean, stdev
from typing import Any

from isospike.config import RunConfig
from isospike.errors import IsospikeError
from isospike.run_folder import MISREAD, RunFolder, misread, noting_files, write_text
from isospike.sweep.cell import FAILURE, is_finished
from isospike.sweep.plan import Cell, Sweep

DROP = 0.01  # of train accuracy; below it nobody would speak of degradation
ERRORS = 2.0  # standard errors of the difference that it must exceed as well
RESULT = "sweep.json"
STATES = ("done", "failed", "begun", "missing")
SUMMARISED = ("train_accuracy", "test_accuracy", "seconds", "firing_rate", "log10_gradient_ratio")


def collect(sweep: Sweep) -> dict[str, Any]:
    """Collect all that can be shown of a sweep, finished or not, for ``sweep.json``.

    A row per cell: its state ("done", "failed", "begun", "missing"), accuracies of the last epoch (that of training as
    the epoch went along), seconds of training steps, and by unit the gradient norm of the first backward and of the
    trained network and the trained network's spikes per neuron and step. A group per series and depth: mean, standard
    deviation (n - 1) and n over the seeds that are done. A finding per series.
    """
    rows = [_row(cell, sweep.folder(cell)) for cell in sweep.cells]
    groups = [_group([*members]) for _, members in groupby(rows, key=lambda row: (row["series"], row["depth"]))]
    names = dict.fromkeys(group["series"] for group in groups)
    base = sweep.plan.base
    return {
        "recipe": base["recipe"],
        "data": base["data"]["kind"],
        "note": next((row["note"] for row in rows if row["note"]), ""),
        "states": {state: sum(row["state"] == state for row in rows) for state in STATES},
        "findings": [find(name, [group for group in groups if group["series"] == name]) for name in names],
        "groups": groups,
        "plan": sweep.plan.model_dump(mode="json"),
        "rows": rows,
    }


def write_results(sweep: Sweep, result: Mapping[str, Any]) -> None:
    """Write ``sweep.json``, a row to a line."""
    rows = ",\n".join("  " + json.dumps(row) for row in result["rows"])
    head = json.dumps({key: value for key, value in result.items() if key != "rows"}, indent=1)
    write_text(sweep.path / RESULT, f'{head[:-2]},\n "rows": [\n{rows}\n ]\n}}\n')


def mean_and_spread(values: Iterable[float | None]) -> dict[str, Any]:
    """Return the mean and the standard deviation of a sample; None for what cannot be said of so few."""
    known = [value for value in values if value is not None]
    return {
        "mean": fmean(known) if known else None,
        "sd": stdev(known) if len(known) > 1 else None,
        "n": len(known),
    }


def find(series: str, groups: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return whether the deepest network of a series fits its training images worse than a shallower one.

    Degradation is that of He et al. 2016: the error of *training* grows with depth. The difference to the best of the
    shallower ones must exceed ``DROP`` and, with several seeds, ``ERRORS`` standard errors.
    """
    known = [group for group in groups if group["train_accuracy"]["n"]]
    if len(known) < 2:
        return {"series": series, "degrades": None, "text": f"{series}: no two depths to compare yet"}
    *shallower, deepest = sorted(known, key=lambda group: group["depth"])
    best = max(shallower, key=lambda group: group["train_accuracy"]["mean"])
    high, low = best["train_accuracy"], deepest["train_accuracy"]
    drop = high["mean"] - low["mean"]
    error = math.sqrt(sum((of["sd"] or 0.0) ** 2 / of["n"] for of in (high, low)))
    degrades = drop > max(DROP, ERRORS * error)
    words = (
        f"train accuracy {high['mean']:.2%} at depth {best['depth']} and {low['mean']:.2%} at {deepest['depth']}, "
        f"test {best['test_accuracy']['mean']:.2%} and {deepest['test_accuracy']['mean']:.2%}"
    )
    verdict = "degrades with depth" if degrades else "no degradation seen"
    return {"series": series, "degrades": degrades, "text": f"{series}: {verdict}; {words}"}


def _row(cell: Cell, run: RunFolder) -> dict[str, Any]:
    """Make the row of one cell; what is not there is None, and what cannot be read becomes the reason."""
    row = {
        "cell": cell.name,
        "series": cell.series,
        "topology": cell.topology,
        "depth": cell.depth,
        "seed": cell.seed,
        "changes": dict(cell.changes),
        "state": "missing",
        "reason": "",
        "note": "",
        "epochs": 0,
        **dict.fromkeys(("train_accuracy", "test_accuracy", "best_accuracy", "seconds", "gradients", "firing")),
        **dict.fromkeys(("firing_rate", "log10_gradient_ratio")),
    }
    with noting_files() as files:
        try:
            return {**row, **_read(cell.config, run)}
        except IsospikeError as error:
            return {**row, "state": "failed", "reason": str(error)}
        except MISREAD as error:
            return {**row, "state": "failed", "reason": misread(files, error)}


def _read(config: RunConfig, run: RunFolder) -> dict[str, Any]:
    """Read the files of a run folder."""
    failure = run.read_analysis(FAILURE)
    if failure is not None:
        return {"state": "failed", "reason": failure["reason"], **_accuracies(run)}
    if not run.config.is_file():
        return {}
    row = {"state": "done" if is_finished(run) else "begun", **_accuracies(run)}
    row["note"] = (run.read_analysis("data") or {}).get("note", "")
    if row["state"] == "begun":
        row["reason"] = f"{row['epochs']} of {config.train.epochs} epochs"
        return row
    gradients, flow = run.read_analysis("gradients") or {}, run.read_analysis("flow") or {}
    untrained = gradients["untrained"]["inputs"]
    row["gradients"] = {
        "untrained": [_short(norm) for norm in untrained.values()],
        "trained": [_short(norm) for norm in gradients["trained"]["inputs"].values()],
    }
    row["firing"] = [_short(_rate(flow["neurons"], unit)) for unit in untrained]
    row["firing_rate"] = flow["spikes_per_neuron"] / flow["T"]
    first, last = [*untrained.values()][0], [*untrained.values()][-1]
    row["log10_gradient_ratio"] = math.log10(first / last) if first and last else None
    return row


def _accuracies(run: RunFolder) -> dict[str, Any]:
    epochs = [record for record in run.read_metrics() if record["kind"] == "epoch"]
    tests = [record for record in epochs if record["split"] == "test"]
    trains = [record for record in epochs if record["split"] == "train"][: len(tests)]
    if not tests:
        return {"epochs": 0}
    return {
        "epochs": len(tests),
        "train_accuracy": trains[-1]["accuracy"],
        "test_accuracy": tests[-1]["accuracy"],
        "best_accuracy": max(record["accuracy"] for record in tests),
        "seconds": trains[-1]["seconds"],
    }


def _rate(neurons: Sequence[Mapping[str, Any]], unit: str) -> float | None:
    """Return spikes per neuron and step of the neurons of a unit, counts as so many spikes; None where it has none."""
    own = [neuron for neuron in neurons if neuron["name"].startswith(f"{unit}.")]
    total = sum(neuron["neurons"] for neuron in own)
    return sum(neuron["neurons"] * fmean(neuron["rate"]) for neuron in own) / total if own else None


def _group(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    done = [row for row in rows if row["state"] == "done"]
    keys = ("series", "topology", "depth", "changes")
    return {
        **{key: rows[0][key] for key in keys},
        **{name: mean_and_spread(row[name] for row in done) for name in SUMMARISED},
    }


def _short(value: float | None) -> float | None:
    """Round to five digits: a sweep of deep networks has many numbers."""
    return None if value is None else float(f"{value:.5g}")

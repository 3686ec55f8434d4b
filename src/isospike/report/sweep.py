"""The page of a sweep: findings, the three pictures of the papers, the numbers of every cell."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from statistics import fmean
from typing import Any

from isospike.optional import import_optional
from isospike.report.page import render
from isospike.report.sections import Chart, Section
from isospike.report.sweep_charts import STATIC, accuracy_chart, alone, side_by_side, unit_chart
from isospike.run_folder import write_text

PAGE = "sweep.html"
SPLITS = {"train_accuracy": "training", "test_accuracy": "test"}
MOMENTS = {"untrained": "first backward", "trained": "trained"}
CAPTIONS = {
    "accuracy": "Accuracy of the last epoch against depth: mean over seeds, bars of one standard deviation. That of "
    "training is taken as the epoch goes along, augmented images and all.",
    "gradient": "Norm of the gradient of the loss by what every unit reads, from the stem to the head, on the same "
    "batch before and after training: geometric mean over seeds. A norm of 0 has no place on this axis.",
    "firing": "Spikes per neuron and step inside every unit of the trained network, counts as so many spikes: mean "
    "over seeds, the shade from the least to the most.",
}


def write_sweep_report(folder: Path, result: Mapping[str, Any]) -> None:
    """Write ``sweep.html`` into a sweep folder.

    Args:
        folder: The folder.
        result: Of ``isospike.sweep.collect``, or read from ``sweep.json``.

    Raises:
        MissingExtra: the plotting library is not installed.
    """
    charts = {name: Chart(alone(spec), escape(CAPTIONS[name])) for name, spec in _charts(result).items()}
    sections = [_summary(result, charts), _cells(result), _plan(result)]
    write_text(folder / PAGE, render(f"Sweep {folder.name}", sections))


def write_sweep_figures(folder: Path, result: Mapping[str, Any]) -> None:
    """Write every picture as ``{name}.svg`` and ``{name}.png``, on white; pictures by unit show all depths.

    Raises:
        MissingExtra: the plotting library is not installed.
    """
    vl_convert = import_optional("vl_convert", extra="report", purpose="drawing figures")
    folder.mkdir(parents=True, exist_ok=True)
    for name, spec in _charts(result).items():
        text = json.dumps({**side_by_side(spec), "config": STATIC})
        write_text(folder / f"{name}.svg", vl_convert.vegalite_to_svg(text))
        (folder / f"{name}.png").write_bytes(vl_convert.vegalite_to_png(text, scale=2))


def _charts(result: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Draw all charts by name; a picture without a point is left out."""
    series = list(dict.fromkeys(group["series"] for group in result["groups"]))
    done = [row for row in result["rows"] if row["state"] == "done"]
    accuracy, gradient, firing = _accuracy_points(result["groups"]), _gradient_points(done), _firing_points(done)
    charts = {}
    if accuracy:
        charts["accuracy"] = accuracy_chart(accuracy, series, result["plan"]["depths"])
    if gradient:
        title = "gradient norm"
        charts["gradient"] = unit_chart(gradient, series, y=title, styles=list(MOMENTS.values()), log=True)
    if firing:
        charts["firing"] = unit_chart(firing, series, y="spikes per neuron and step", band=True)
    return charts


def _accuracy_points(groups: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    points = []
    for group in groups:
        for key, split in SPLITS.items():
            of = group[key]
            if of["mean"] is not None:
                spread = of["sd"] or 0.0
                ends = {"low": max(0.0, of["mean"] - spread), "high": min(1.0, of["mean"] + spread)}
                place = {"series": group["series"], "style": split, "x": group["depth"]}
                points.append({**place, "value": of["mean"], **ends, "n": of["n"]})
    return points


def _gradient_points(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    points = []
    for moment, words in MOMENTS.items():
        for place, values in _by_unit((row, row["gradients"][moment]) for row in rows):
            positive = [value for value in values if value]
            if positive:
                value = math.exp(fmean(map(math.log, positive)))
                points.append({**place, "style": words, "value": value})
    return points


def _firing_points(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    points = []
    for place, values in _by_unit((row, row["firing"]) for row in rows):
        known = [value for value in values if value is not None]
        if known:
            points.append({**place, "value": fmean(known), "low": min(known), "high": max(known)})
    return points


def _by_unit(
    rows: Iterable[tuple[Mapping[str, Any], Sequence[float | None]]],
) -> list[tuple[dict[str, Any], list[float | None]]]:
    """Return the values of all seeds at every unit of every network."""
    found: dict[tuple[str, int, int], list[float | None]] = {}
    for row, values in rows:
        for unit, value in enumerate(values, start=1):
            found.setdefault((row["series"], row["depth"], unit), []).append(value)
    return [({"series": series, "depth": depth, "x": x}, of) for (series, depth, x), of in found.items()]


# Sections ----------------------------------------------------------------------------------------------------------


def _summary(result: Mapping[str, Any], charts: Mapping[str, Chart]) -> Section:
    note = f" ({result['note']})" if result["note"] else ""
    states = ", ".join(f"{count} {state}" for state, count in result["states"].items() if count)
    found = "".join(f"<li>{escape(finding['text'])}</li>" for finding in result["findings"])
    html = f"<p>{escape(result['recipe'])} on {escape(result['data'] + note)}: {escape(states)}.</p><ul>{found}</ul>"
    html += (
        "<p class='hint'>Degradation is that of training: the deepest network fits its training images worse than a "
        "shallower one, by more than 1 % and more than two standard errors.</p>"
    )
    if not charts:
        html += "<p>No cell is done yet.</p>"
    return Section("What depth does", html, tuple(charts.values()))


def _cells(result: Mapping[str, Any]) -> Section:
    head = ("network", "depth", "n", "train %", "test %", "gradient", "firing", "seconds")
    groups = [
        (
            group["series"],
            group["depth"],
            group["test_accuracy"]["n"],
            _spread(group["train_accuracy"], 100, ".2f"),
            _spread(group["test_accuracy"], 100, ".2f"),
            _spread(group["log10_gradient_ratio"], 1, "+.2f"),
            _spread(group["firing_rate"], 1, ".3f"),
            _spread(group["seconds"], 1, ".0f"),
        )
        for group in result["groups"]
    ]
    rows = [
        (
            row["cell"],
            row["state"],
            row["epochs"],
            *("-" if row[key] is None else f"{row[key]:.2%}" for key in SPLITS),
            row["reason"] or "-",
        )
        for row in result["rows"]
    ]
    legend = (
        "Mean and standard deviation over n seeds. gradient: log10 of its norm before the first unit over that before "
        "the last, first backward; firing: spikes per neuron and step of the trained network; seconds: of training."
    )
    each = _table(("cell", "state", "epochs", "train", "test", "reason"), rows)
    html = f"{_table(head, groups)}<p class='hint'>{legend}</p><details><summary>Every cell</summary>{each}</details>"
    return Section("Numbers", html)


def _plan(result: Mapping[str, Any]) -> Section:
    plan = escape(json.dumps(result["plan"], indent=1))
    return Section("Plan", f"<details><summary>Axes, grid and recipe</summary><pre>{plan}</pre></details>")


def _spread(of: Mapping[str, Any], factor: float, form: str) -> str:
    if of["mean"] is None:
        return "-"
    spread = (
        "" if of["sd"] is None else f"\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}{factor * of['sd']:{form.removeprefix('+')}}"
    )
    return f"{factor * of['mean']:{form}}{spread}"


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    heads = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="wide"><table><tr>{heads}</tr>{body}</table></div>'

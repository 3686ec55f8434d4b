"""Several runs on one page: whatever each of them has, side by side."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from html import escape
from pathlib import Path
from typing import Any

from isospike.config import RunConfig
from isospike.errors import ConfigError
from isospike.report.charts import Point, line_chart, thin
from isospike.report.page import make_all, render, write_page
from isospike.report.sections import Chart, Section
from isospike.report.sections.base import depth_series, flat, mean, series, table
from isospike.report.sections.confusion import steps_chart
from isospike.report.sections.isometry import products
from isospike.report.sections.summary import what_is_missing
from isospike.run_folder import MISREAD, RunFolder, misread, noting_files, read_records
from isospike.text import brief, duration, energy_unit

RESULTS = ("data", "model", "test", "isometry", "flow", "energy")
NEURONS_AXIS = "neurons, in the order of the network"


@dataclass(frozen=True)
class Compared:
    """One of the runs, read once.

    Args:
        label: What tells it from the others: its folder, with as many of those above it as that takes.
        config: Its configuration.
        steps: Records of optimiser steps.
        epochs: Of epochs.
        watched: Of firing during training.
        results: What analysis/ holds of ``RESULTS``.
        missing: Sentences about what is not there or cannot be read.
    """

    label: str
    config: RunConfig
    steps: list[dict[str, Any]]
    epochs: list[dict[str, Any]]
    watched: list[dict[str, Any]]
    results: dict[str, dict[str, Any]]
    missing: tuple[str, ...]

    @property
    def tests(self) -> list[dict[str, Any]]:
        """Test passes after each epoch."""
        return [r for r in self.epochs if r["split"] == "test"]


def write_comparison(runs: Sequence[RunFolder], path: Path) -> list[str]:
    """Write one page of several runs.

    Args:
        runs: Their folders, at least two.
        path: Where to.

    Returns:
        A sentence for everything that could not be shown.

    Raises:
        ConfigError: a folder holds no run, or the page cannot be written.
        MissingExtra: the plotting library is not installed.
    """
    sections, problems = comparison_sections(runs)
    title = " and ".join(_labels(runs)) if len(runs) == 2 else f"{len(runs)} runs"
    write_page(path, render(title, sections))
    return problems


def comparison_sections(runs: Sequence[RunFolder]) -> tuple[list[Section], list[str]]:
    """Return the sections, and what could not be shown.

    Raises:
        ConfigError: a folder holds no run.
    """
    compared, damaged = [], []
    for label, run in zip(_labels(runs), runs, strict=True):
        found, problems = _read(label, run)
        compared.append(found)
        damaged += problems
    sections, problems = make_all({make.__name__: partial(_make, make, compared) for make in SECTIONS})
    return sections, [*damaged, *problems]


def _make(make: Callable[[Sequence[Compared]], Section | None], runs: Sequence[Compared]) -> Section | None:
    """Make a section of all runs.

    Raises:
        ConfigError: it cannot be made of some of them alone either; names these.
    """
    try:
        return make(runs)
    except MISREAD as error:
        names = " and ".join(run.label for run in runs if not _can(make, run))
        raise ConfigError(
            f"what {names or 'one of the runs'} holds for it is not what isospike writes ({brief(str(error))}); "
            "the report of that run alone names the file"
        ) from error


def _can(make: Callable[[Sequence[Compared]], Section | None], run: Compared) -> bool:
    try:
        make([run])
    except MISREAD:
        return False
    return True


def _read(label: str, run: RunFolder) -> tuple[Compared, list[str]]:
    config = run.read_config()
    records, torn = read_records(run.metrics)
    watched, torn_flow = read_records(run.flow)
    damaged = [sentence for sentence in (torn, torn_flow) if sentence]
    results: dict[str, dict[str, Any]] = {}
    for name in RESULTS:
        try:
            result = run.read_analysis(name)
        except ConfigError as error:
            damaged.append(str(error))
        else:
            results |= {name: result} if result is not None else {}
    steps, epochs = ([r for r in records if r.get("kind") == kind] for kind in ("step", "epoch"))
    missing = (*damaged, *_missing(run, config))
    return Compared(label, config, steps, epochs, watched, results, tuple(dict.fromkeys(missing))), damaged


def _missing(run: RunFolder, config: RunConfig) -> tuple[str, ...]:
    with noting_files() as files:
        try:
            return tuple(what_is_missing(run, config))
        except MISREAD as error:
            return (misread(files, error),)


def _labels(runs: Sequence[RunFolder]) -> list[str]:
    """Shorten paths to the ends that tell them apart; the same folder twice is said to be so."""
    paths = [run.path.resolve() for run in runs]
    if len(set(paths)) < len(paths):
        twice = next(path for path in paths if paths.count(path) > 1)
        raise ConfigError(f"{twice} was named twice: a run is compared with others")
    length = 1
    while len({path.parts[-length:] for path in paths}) < len(paths):
        length += 1
    return ["/".join(path.parts[-length:]) for path in paths]


# Sections ------------------------------------------------------------------------------------------------------------


def overview(runs: Sequence[Compared]) -> Section | None:
    """Show a column for every run, so that a few of them fit on the page."""
    unit, per_mj = energy_unit(run.results["energy"]["mj"]["stem_once"] for run in runs if "energy" in run.results)
    facts = (
        "model", "data", "T", "parameters", "test accuracy, last epoch", "best epoch", "epochs", "training time",
        "images/s", "spikes per neuron", f"energy, {unit}", "ANN / this",
    )  # fmt: skip
    columns = [_facts(run, per_mj) for run in runs]
    rows = [[fact, *values] for fact, *values in zip(facts, *columns, strict=True)]
    notes = {note for run in runs if (note := run.results.get("data", {}).get("note"))}
    text = "".join(f"<p>{escape(note)}.</p>" for note in sorted(notes))
    missing = "".join(
        f"<p class='hint'><b>{escape(run.label)}</b>: {escape(sentence)}</p>"
        for run in runs
        for sentence in run.missing
    )
    return Section("Overview", f"{text}{table(['', *(run.label for run in runs)], rows)}{missing}")


def _facts(run: Compared, per_mj: float) -> list[str]:
    """List the facts of a run, in the order of the overview."""
    model, data, energy = (run.results.get(name, {}) for name in ("model", "data", "energy"))
    best = max(run.tests, key=lambda r: r["accuracy"], default=None)
    rates = sorted(r["images_per_s"] for r in run.steps)
    return [
        run.config.model.name,
        data.get("name", run.config.data.kind),
        _or_dash(model.get("T"), "{}"),
        _or_dash(model.get("parameters"), "{:,}"),
        _or_dash(_last_accuracy(run), "{:.2%}"),
        f"{best['accuracy']:.2%} (epoch {best['epoch']})" if best else "-",
        f"{max((r['epoch'] for r in run.epochs), default=0)} of {run.config.train.epochs}",
        duration(run.steps[-1]["seconds"]) if run.steps else "-",
        _or_dash(rates[len(rates) // 2] if rates else None, "{:,.0f}"),
        _or_dash(energy.get("spikes_per_neuron"), "{:.3f}"),
        _or_dash(energy["mj"]["stem_once"] * per_mj if energy else None, "{:,.3f}"),
        _or_dash(energy.get("ratio"), "{:.2f}"),
    ]


def _last_accuracy(run: Compared) -> float | None:
    if run.tests:
        return run.tests[-1]["accuracy"]
    return run.results.get("test", {}).get("accuracy")


def _or_dash(value: Any, form: str) -> str:
    return "-" if value is None else form.format(value)


def settings_that_differ(runs: Sequence[Compared]) -> Section | None:
    """Return keys of the configuration that are not alike in all runs."""
    values = [dict(flat(run.config.model_dump(mode="json"))) for run in runs]
    keys = list(dict.fromkeys(key for each in values for key in each))
    rows = [[key, *(each.get(key, "-") for each in values)] for key in keys]
    rows = [row for row in rows if len(set(row[1:])) > 1]
    if not rows:
        return Section("Settings that differ", "<p>None: these runs have the same configuration.</p>")
    return Section("Settings that differ", table(["setting", *(run.label for run in runs)], rows))


def curves(runs: Sequence[Compared]) -> Section | None:
    """Show loss, accuracy and gradients over training."""
    lines: dict[str, tuple[list[Point], dict[str, Any]]] = {
        "Test accuracy": (_over(runs, "tests", "accuracy", x="epoch"), {"x": "epoch", "percent": True}),
        "Training loss": (_over(runs, "steps", "loss"), {"x": "optimiser step"}),
        "Test loss": (_over(runs, "tests", "loss", x="epoch"), {"x": "epoch"}),
        "Learning rate": (_over(runs, "steps", "lr"), {"x": "optimiser step"}),
        "Gradient norm": (_positive(_over(runs, "steps", "grad_norm")), {"x": "optimiser step", "log": True}),
        "Firing rate in training": (_over(runs, "watched", "rate"), {"x": "optimiser step"}),
    }
    charts = tuple(
        Chart(line_chart(points, y=name.lower(), title=name, **options), f"{name} of each run over the training.")
        for name, (points, options) in lines.items()
        if points
    )
    return Section("Curves", "", charts) if charts else None


def _over(runs: Iterable[Compared], records: str, key: str, *, x: str = "step") -> list[Point]:
    return [point for run in runs for point in series(getattr(run, records), key, run.label, x=x)]


def _positive(points: Iterable[Point]) -> list[Point]:
    return [point for point in points if point["value"] > 0 and math.isfinite(point["value"])]


def accuracy_against_time_steps(runs: Sequence[Compared]) -> Section | None:
    """Show every run that was tested step by step."""
    points = [
        {"x": t, "value": value, "series": run.label}
        for run in runs
        for t, value in enumerate(run.results.get("test", {}).get("accuracy_after", ()), start=1)
    ]
    if not points:
        return None
    return Section("Accuracy against T", "", (steps_chart(points),))


def isometry(runs: Sequence[Compared]) -> Section | None:
    """Show verdicts, and how units pass gradients on."""
    found = {run.label: run.results["isometry"] for run in runs if "isometry" in run.results}
    if not found:
        return None
    verdicts = table(("run", "verdict"), [(label, result["verdict"]["text"]) for label, result in found.items()])
    phi = [
        {"x": u["index"], "value": u["phi"]["value"], "series": label, "name": u["name"]}
        for label, result in found.items()
        for u in result["units"]
    ]
    grown = [{**p, "series": label} for label, result in found.items() for p in products(result["units"])]
    norms = [
        {"x": x, "value": norm, "series": label, "name": name}
        for label, result in found.items()
        for x, (name, norm) in enumerate(result["gradients"]["inputs"].items(), start=1)
        if norm > 0
    ]
    caption = "phi of every unit: the mean of the eigenvalues of its J J<sup>T</sup>; at 1 a gradient keeps its length."
    charts = [Chart(line_chart(phi, x="unit", y="phi", title="phi of every unit"), caption)]
    if grown:
        chart = line_chart(grown, x="unit", y="log10 of the product of phi", title="Product of phi")
        charts.append(
            Chart(chart, "Growth of a gradient's square on its way back, from the last unit to each (log10).")
        )
    if norms:
        chart = line_chart(norms, x="unit", y="gradient norm", title="Gradient by unit", log=True)
        charts.append(Chart(chart, "Norm of the gradient of the loss by what each unit reads."))
    return Section("Isometry", verdicts, tuple(charts))


def firing(runs: Sequence[Compared]) -> Section | None:
    """Show rates and silent neurons along depth."""
    found = [(run.label, run.results["flow"]["neurons"]) for run in runs if "flow" in run.results]
    if not found:
        return None
    quantities: dict[str, tuple[Callable[[Mapping[str, Any]], float], str, bool]] = {
        "Firing rate": (lambda n: mean(n["rate"]), "Mean count of spikes per neuron and step", False),
        "Silent neurons": (lambda n: n["silent"], "Share of neurons that never fired", True),
        "Saturated neurons": (lambda n: n["saturated"], "Share of neurons that put out their most at every step", True),
    }
    charts = tuple(
        _along_depth(found, value, NEURONS_AXIS, name, caption, percent=percent)
        for name, (value, caption, percent) in quantities.items()
    )
    return Section("Firing", "", charts)


def energy(runs: Sequence[Compared]) -> Section | None:
    """Show totals in every way of counting, and what each layer takes."""
    found = {run.label: run.results["energy"] for run in runs if "energy" in run.results}
    if not found:
        return None
    first = next(iter(found.values()))
    ways = {"ann": "ANN of the same layers, dense", **first["ways"]}
    unit, per_mj = energy_unit(mj for result in found.values() for mj in result["mj"].values())
    rows = [
        [words, *(f"{per_mj * result['mj'][way]:,.4g}" for result in found.values())] for way, words in ways.items()
    ]
    tables = sorted({f"{label}: {result['table']['name']}" for label, result in found.items()})
    alike = len({result["table"]["name"] for result in found.values()}) == 1
    text = f"<p>{unit} per image, {escape(first['table']['name'] if alike else '; '.join(tables))}.</p>"
    layers = [(label, result["layers"]) for label, result in found.items()]
    named = [(label, [{**layer, "name": layer["layer"]} for layer in each]) for label, each in layers]
    chart = _along_depth(
        named,
        lambda layer: per_mj * layer["mj"],
        "layer, in the order of the network",
        f"Energy of a layer, {unit}",
        "What every convolution and linear layer takes per image",
    )
    return Section("Energy", text + table(["way of counting", *found], rows), (chart,))


def _along_depth(
    found: Iterable[tuple[str, Sequence[Mapping[str, Any]]]],
    value: Callable[[Mapping[str, Any]], float],
    x: str,
    title: str,
    caption: str,
    *,
    percent: bool = False,
) -> Chart:
    points = [p for label, places in found for p in thin(depth_series(places, [value(n) for n in places], label))]
    y = title[0].lower() + title[1:]
    return Chart(line_chart(points, x=x, y=y, title=f"{title} along depth", percent=percent), f"{caption}.")


SECTIONS: tuple[Callable[[Sequence[Compared]], Section | None], ...] = (
    overview,
    settings_that_differ,
    curves,
    accuracy_against_time_steps,
    isometry,
    firing,
    energy,
)

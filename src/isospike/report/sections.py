"""Sections of the report: each looks at the run folder and says what it has to say, or nothing.

To add one, write a function ``(RunFolder) -> Section | None`` and put it into ``SECTIONS``; the page does the rest.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from html import escape
from typing import Any

from isospike.report.charts import Spec, heat_map, line_chart, thin
from isospike.run_folder import RunFolder, read_json
from isospike.text import duration

LARGEST_HEAT_MAP = 100  # classes
MOST_STEPS = 8  # drawn with a line each
NEURONS_AXIS = "neurons, in the order of the network"


@dataclass(frozen=True)
class Chart:
    """A chart and what stands below it; the caption is HTML."""

    spec: Spec
    caption: str


@dataclass(frozen=True)
class Section:
    """A heading, some HTML and some charts below it.

    Args:
        title: Plain text.
        html: HTML, everything foreign in it escaped.
        charts: Drawn after it.
    """

    title: str
    html: str = ""
    charts: tuple[Chart, ...] = ()


def summary(run: RunFolder) -> Section | None:
    """The figures that one looks for first."""
    records = run.read_metrics()
    config = run.read_config()
    tests = [r for r in records if r["kind"] == "epoch" and r["split"] == "test"]
    steps = [r for r in records if r["kind"] == "step"]
    tested, data = run.read_analysis("test"), run.read_analysis("data") or {}
    note = f" ({data['note']})" if data.get("note") else ""
    figures: dict[str, str] = {}
    if tests:
        best = max(tests, key=lambda r: r["accuracy"])
        figures[f"test accuracy, last epoch{note}"] = f"{tests[-1]['accuracy']:.2%}"
        figures[f"best epoch, chosen on the test images{note}"] = f"{best['accuracy']:.2%} (epoch {best['epoch']})"
    elif tested:
        figures[f"test accuracy, {tested['checkpoint']} checkpoint{note}"] = f"{tested['accuracy']:.2%}"
    if steps:
        rates = sorted(r["images_per_s"] for r in steps)
        figures["training loss, last"] = f"{steps[-1]['loss']:.4f}"
        figures["optimiser steps"] = f"{steps[-1]['step']:,}"
        figures["training time"] = duration(steps[-1]["seconds"])
        figures["images/s, median"] = f"{rates[len(rates) // 2]:,.0f}"
        figures["peak memory"] = f"{max(r['peak_memory_mb'] for r in steps):,.0f} MB"
    if not figures:
        figures["steps so far"] = "none"
    cards = "".join(
        f'<div class="figure"><b>{escape(value)}</b><span>{escape(name)}</span></div>'
        for name, value in figures.items()
    )
    what = (
        f"<p>{escape(config.model.name)} on {escape(str(data.get('name', config.data.kind)))}, seed {config.seed}.</p>"
    )
    return Section("Summary", f'{what}<div class="figures">{cards}</div>')


def curves(run: RunFolder) -> Section | None:
    """Loss, accuracy and what else was recorded over the steps."""
    records = run.read_metrics()
    steps = [r for r in records if r["kind"] == "step"]
    epochs = [r for r in records if r["kind"] == "epoch"]
    if not steps:
        return None
    tests = [r for r in epochs if r["split"] == "test"]
    loss = _series(steps, "loss", "training") + _series(tests, "loss", "test")
    charts = [Chart(line_chart(loss, x="optimiser step", y="loss", title="Loss"), "Loss.")]
    if epochs:
        accuracy = [
            point
            for split in ("train", "test")
            for point in _series([r for r in epochs if r["split"] == split], "accuracy", split, x="epoch")
        ]
        chart = line_chart(accuracy, x="epoch", y="accuracy", title="Accuracy", percent=True)
        charts.append(Chart(chart, "Accuracy, of training as the epoch went along."))
    for key, title, log in (
        ("lr", "Learning rate", False),
        ("grad_norm", "Gradient norm", True),
        ("images_per_s", "Images per second", False),
    ):
        points = [p for p in _series(steps, key, title) if math.isfinite(p["value"]) and (not log or p["value"] > 0)]
        if points:
            chart = line_chart(points, x="optimiser step", y=title.lower(), title=title, log=log)
            charts.append(Chart(chart, f"{title}."))
    hint = "<p class='hint'>Click a name in a legend to pick a line, hold shift and turn the wheel to zoom.</p>"
    return Section("Curves", hint, tuple(charts))


def confusion(run: RunFolder) -> Section | None:
    """Which classes are taken for which."""
    tested = run.read_analysis("test")
    if tested is None:
        return None
    classes, matrix = tested["classes"], tested["confusion"]
    pairs = sorted(
        (
            (count, classes[true], classes[guess], count / max(1, sum(counts)))
            for true, counts in enumerate(matrix)
            for guess, count in enumerate(counts)
            if true != guess and count
        ),
        reverse=True,
    )
    rows = [(true, guess, f"{count:,}", f"{share:.1%}") for count, true, guess, share in pairs[:10]]
    table = _table(("true class", "taken for", "images", "share of the class"), rows)
    size = f" at {tested['size']} pixels" if "size" in tested else ""
    text = f"<p>{tested['images']:,} test images{size}, {escape(tested['checkpoint'])} checkpoint.</p>"
    html = f"{text}<h3>Most often confused</h3>{table if rows else '<p>No image was put into a wrong class.</p>'}"
    if len(classes) > LARGEST_HEAT_MAP:
        return Section("Confusion", html)
    chart = heat_map(matrix, classes, title="Confusion matrix")
    return Section("Confusion", html, (Chart(chart, "Confusion matrix: the share of each true class."),))


def isometry(run: RunFolder) -> Section | None:
    """How every unit passes gradients on, and how long they are along depth."""
    found = run.read_analysis("isometry")
    if found is None:
        return None
    state = f"{found['checkpoint']} checkpoint, T={found['T']}, {found['batch']} {found['images']}"
    said = [found["verdict"], *found["verdict"]["notes"]]
    html = f"<p><b>{escape(said[0]['text'])}.</b></p>" + "".join(f"<p>{escape(note['text'])}.</p>" for note in said[1:])
    html += f"<p class='hint'>{escape(state)}, {found['probes']} probes per unit, batch statistics.</p>"
    rows = [(note["text"], note["reason"]) for note in said]
    html += f"<details><summary>Why</summary>{_table(('finding', 'rule and source'), rows)}</details>"
    return Section("Isometry", html, tuple(_isometry_charts(found)))


def _isometry_charts(found: Mapping[str, Any]) -> Iterator[Chart]:
    units, norms = found["units"], found["gradients"]
    for key, title in (("phi", "phi, mean"), ("varphi", "varphi, variance")):
        points = [{"x": u["index"], **u[key], "series": "measured"} for u in units]
        points += [{"x": u["index"], "value": u["expected"][key], "series": "theory"} for u in units if u["expected"]]
        chart = line_chart(points, x="unit", y=key, title=f"{title} of the eigenvalues of J J^T", band=True)
        shade = "; shaded: 95 % interval of the probes" if any(point.get("low") is not None for point in points) else ""
        theory = ". Theory takes the layers as independent of each other" if any(u["expected"] for u in units) else ""
        yield Chart(chart, f"{title} of the eigenvalues of every unit's J J<sup>T</sup>{shade}{theory}.")
    total, product = 0.0, []
    for unit in reversed(units):
        if not unit["phi"]["value"] > 0:
            break  # nothing comes back beyond a unit that passes nothing
        total += math.log10(unit["phi"]["value"])
        product.append({"x": unit["index"], "value": total, "series": "product"})
    if product:
        chart = line_chart(product[::-1], x="unit", y="log10 of the product of phi", title="Product of phi")
        yield Chart(chart, "Growth of a gradient's square on its way back, from the last unit to each (log10).")
    for key, title, x in (("inputs", "what each unit reads", "unit"), ("weights", "the weights", "convolution")):
        points = [
            {"x": number, "value": norm, "series": title}
            for number, norm in enumerate(norms[key].values(), start=1)
            if norm > 0
        ]
        if points:
            chart = line_chart(thin(points), x=x, y="gradient norm", title=f"Gradient by {title}", log=True)
            yield Chart(chart, f"Norm of the gradient of the loss by {title}, from stem to head.")


def firing(run: RunFolder) -> Section | None:
    """Rates, silence and closed surrogates along depth and time, and the stream behind the units."""
    flow = run.read_analysis("flow")
    if flow is None:
        return None
    html = (
        f"<p>{flow['samples']:,} test images of {escape(flow['data'])}, {escape(flow['checkpoint'])} checkpoint: "
        f"{flow['spikes_per_neuron']:.3f} spikes per neuron and image. Silent neurons never fired, saturated ones put "
        "out their most at every step; an open potential lets a gradient through its surrogate, and a dormant neuron "
        "has none.</p>"
    )
    charts = [*_rate_charts(flow["neurons"], flow["T"]), _gate_chart(flow["neurons"])]
    if flow["units"]:
        streams = {part: [_mean(u[part]) for u in flow["units"]] for part in ("mean", "variance")}
        streams["maximum"] = [max(u["largest"]) for u in flow["units"]]
        charts.append(_depth_chart(flow["units"], streams, "unit", "value", "Stream behind every unit"))
    return Section("Firing", html, tuple(charts))


def _rate_charts(neurons: list[dict[str, Any]], T: int) -> list[Chart]:
    """Rates, and where neurons have several levels how often each is put out."""
    rates = {"mean over time": [_mean(n["rate"]) for n in neurons]}
    if T <= MOST_STEPS:
        rates = {f"step {step + 1}": [n["rate"][step] for n in neurons] for step in range(T)}
    most = max(len(n["histogram"]) for n in neurons)
    several = most > 2
    unit = "mean count per step" if several else "share that fires"
    charts = [_depth_chart(neurons, rates, NEURONS_AXIS, unit, "Firing rate along depth", percent=not several)]
    if several:
        levels = {f"puts out {k}": [dict(enumerate(n["histogram"])).get(k, 0.0) for n in neurons] for k in range(most)}
        charts.append(_depth_chart(neurons, levels, NEURONS_AXIS, "share", "Levels along depth", percent=True))
    return charts


def _gate_chart(neurons: list[dict[str, Any]]) -> Chart:
    shares = {"silent": [n["silent"] for n in neurons], "saturated": [n["saturated"] for n in neurons]}
    if all(n["open"] is not None for n in neurons):
        shares |= {"potentials open": [_mean(n["open"]) for n in neurons]}
        shares |= {"dormant per step": [_mean(n["dormant"]) for n in neurons]}
        shares |= {"dormant at all steps": [n["dormant_throughout"] for n in neurons]}
    title = "Silent, saturated and dormant neurons along depth"
    return _depth_chart(neurons, shares, NEURONS_AXIS, "share", title, percent=True)


def energy(run: RunFolder) -> Section | None:
    """What the operations cost, beside the ANN of the same layers."""
    found = run.read_analysis("energy")
    if found is None:
        return None
    table, note = found["table"], f" ({found['note']})" if found["note"] else ""
    html = (
        f"<p>Per image of {found['samples']:,} test images of {escape(found['data'] + note)}, "
        f"{escape(found['checkpoint'])} checkpoint; {found['spikes_per_neuron']:.3f} spikes per neuron. "
        f"{escape(table['name'])}: {table['mac_pj']:g} pJ per MAC, {table['ac_pj']:g} pJ per AC "
        f"({escape(table['source'])}).</p>{_ways(found)}<h3>By part</h3>{_parts(found['groups'])}"
        f"<h3>Estimates, in no total above</h3>{_estimates(found)}"
    )
    layers = [{**layer, "name": f"{layer['layer']}, reads {layer['reads']}"} for layer in found["layers"]]
    series = {"this network": [1e3 * layer["mj"] for layer in layers]}
    series["ANN of the same layers"] = [1e3 * layer["ann_mj"] for layer in layers]
    chart = _depth_chart(layers, series, "layer, in the order of the network", "uJ", "Energy of every layer")
    return Section("Energy", html, (chart,))


def _ways(found: Mapping[str, Any]) -> str:
    mj = found["mj"]
    rows = [("ANN of the same layers, dense", f"{mj['ann']:.4g} mJ", "1")]
    rows += [(words, f"{mj[way]:.4g} mJ", f"{mj['ann'] / mj[way]:.2f}") for way, words in found["ways"].items()]
    return _table(("way of counting", "energy", "ANN / this"), rows)


def _parts(groups: Mapping[str, Mapping[str, float]]) -> str:
    counts = ("dense", "macs", "acs", "graded_acs")
    rows = [
        (name, *(f"{row[c] / 1e6:,.3f}" for c in counts), f"{row['mj'] * 1e3:,.3f}", f"{row['ann_mj'] * 1e3:,.3f}")
        for name, row in groups.items()
    ]
    return _table(("part", "dense MACs, M", "MACs, M", "ACs, M", "graded ACs, M", "uJ", "ANN uJ"), rows)


def _estimates(found: Mapping[str, Any]) -> str:
    memory = found["estimates"]["memory"]
    values = {
        "ANN without the zeros of the padding": found["ann_inside_mj"],
        "potentials updated": found["estimates"]["membrane"],
        "memory, each number moved as seldom as can be": sum(memory.values()) - memory["ann"],
        "the same of the ANN": memory["ann"],
    }
    return _table(("", ""), [(name, f"{value:.4g} mJ") for name, value in values.items()])


def model(run: RunFolder) -> Section | None:
    """The model's card."""
    card = run.read_analysis("model")
    if card is None:
        return None
    whole = {key: f"{value:,}" if isinstance(value, int) else value for key, value in card.items()}
    return Section("Model", _table(("", ""), _flat(whole)))


def configuration(run: RunFolder) -> Section | None:
    """The whole configuration."""
    return Section("Configuration", f"<pre>{escape(run.read_config().to_yaml())}</pre>")


def environment(run: RunFolder) -> Section | None:
    """Versions and hardware."""
    path = run.path / "env.json"
    return Section("Environment", _table(("", ""), _flat(read_json(path)))) if path.is_file() else None


SECTIONS: tuple[Callable[[RunFolder], Section | None], ...] = (
    summary,
    curves,
    confusion,
    isometry,
    firing,
    energy,
    model,
    configuration,
    environment,
)


def _series(records: Iterable[Mapping[str, Any]], key: str, name: str, *, x: str = "step") -> list[dict[str, Any]]:
    return thin([{"x": r[x], "value": r[key], "series": name} for r in records if key in r])


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _depth_chart(
    places: list[dict[str, Any]],
    series: Mapping[str, list[float]],
    x: str,
    y: str,
    title: str,
    *,
    percent: bool = False,
) -> Chart:
    """Lines over places of the network that have a ``name``."""
    points = [
        {"x": index, "value": value, "series": name, "name": place["name"]}
        for name, values in series.items()
        for index, (place, value) in enumerate(zip(places, values, strict=True), start=1)
    ]
    return Chart(line_chart(points, x=x, y=y, title=title, percent=percent), f"{escape(title)}.")


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    heads = "".join(f"<th>{escape(cell)}</th>" for cell in head) if any(head) else ""
    body = "".join("<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="wide"><table>{f"<tr>{heads}</tr>" if heads else ""}{body}</table></div>'


def _flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested mappings as dotted names."""
    rows: list[tuple[str, str]] = []
    for key, value in values.items():
        name = f"{prefix}{key}"
        rows += (
            _flat(value, f"{name}.")
            if isinstance(value, Mapping)
            else [(name, "-" if value in (None, "") else str(value))]
        )
    return rows

"""Firing during training: over the steps that were watched, of the whole network and along depth."""

from collections.abc import Mapping, Sequence
from typing import Any

from isospike.report.charts import Point, bins, block_mean, line_chart, map_chart
from isospike.report.sections.base import Chart, Section, series
from isospike.run_folder import RunFolder, read_records

MOST_TIMES = MOST_PLACES = 48  # columns and rows of the map
MEANS = {
    "rate": "firing rate",
    "silent": "silent",
    "saturated": "saturated",
    "open": "potentials open",
    "dormant": "dormant per step",
    "dormant_throughout": "dormant at all steps",
}


def watched(run: RunFolder) -> Section | None:
    """Show what the trainer wrote at its interval."""
    records = read_records(run.flow)[0]
    if not records:
        return None
    every = run.read_config().train.watch_every
    text = (
        f"<p>{len(records):,} training batches; train.watch_every is {every:,} optimiser steps. Over one batch: silent "
        "neurons did not fire, saturated ones put out their most at every step.</p>"
    )
    lines = [point for key, name in MEANS.items() for point in series(records, key, name)]
    chart = line_chart(lines, x="optimiser step", y="mean over neurons", title="Firing during training")
    charts = [Chart(chart, "Means over all neurons: the rate counts spikes per step, the others are shares.")]
    quantities = {key: name for key, name in MEANS.items() if key in records[0]["neurons"]}
    if len(records) > 1:
        spec = map_chart(
            depth_cells(records, quantities),
            quantities,
            x="optimiser step",
            y="neurons, from the stem down to the head",
            title="Firing during training along depth",
            downwards=True,
        )
        charts.append(Chart(spec, "The same along depth; choose what the colour shows."))
    charts.append(_streams(records))
    return Section("Firing during training", text, tuple(charts))


def depth_cells(records: Sequence[Mapping[str, Any]], keys: Mapping[str, str]) -> list[Point]:
    """Return means over runs of records and of neighbouring populations of neurons."""
    names = records[0]["neurons"]["name"]
    steps = [r["step"] for r in records]
    ends = [*steps[1:], 2 * steps[-1] - steps[-2]]
    values = {key: [_over_time(r["neurons"][key]) for r in records] for key in keys}
    return [
        {
            "x": steps[times[0]],
            "x2": ends[times[-1]],
            "y": places[0] + 0.5,
            "y2": places[-1] + 1.5,
            "name": _span(names[places[0]], names[places[-1]]),
            "label": _span(f"step {steps[times[0]]:,}", f"step {steps[times[-1]]:,}"),
            **{key: block_mean(matrix, times, places) for key, matrix in values.items()},
        }
        for times in bins(len(records), MOST_TIMES)
        for places in bins(len(names), MOST_PLACES)
    ]


def _over_time(column: Sequence[float | Sequence[float]]) -> list[float]:
    """Return a number of each population; rates have one for every time step."""
    return [value if isinstance(value, int | float) else sum(value) / len(value) for value in column]


def _span(first: str, last: str) -> str:
    return first if first == last else f"{first} to {last}"


def _streams(records: Sequence[Mapping[str, Any]]) -> Chart:
    """Return the variance of the stream behind a few units, the first and the last among them."""
    names = records[0]["units"]["name"]
    chosen = sorted({round(k * (len(names) - 1) / 4) for k in range(5)})
    lines = [
        point
        for unit in chosen
        for point in series(
            [{"step": r["step"], "value": r["units"]["variance"][unit]} for r in records], "value", names[unit]
        )
        if point["value"] > 0
    ]
    chart = line_chart(lines, x="optimiser step", y="variance", title="Variance of the stream behind units", log=True)
    return Chart(chart, "Variance of the stream behind some units, the first and the last among them.")

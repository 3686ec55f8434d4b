"""What neurons do along depth and time, on test images."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from isospike.report.charts import Point, bins, block_mean, map_chart, raster_chart
from isospike.report.sections.base import Chart, Section, depth_chart, mean
from isospike.run_folder import RunFolder

MOST_STEPS = 8  # drawn with a line each
MOST_PLACES, MOST_TIMES = 120, 16  # columns and rows of the map
NEURONS_AXIS = "neurons, in the order of the network"
RATES = "How much every population of neurons puts out, from the first behind the stem to the last before the head."
LEVELS = "How often the neurons of every population put out each level."
STREAM = "Mean, variance and largest value of the stream behind every residual unit, over the images and time steps."


def firing(run: RunFolder) -> Section | None:
    """Show rates, silence, closed surrogates along depth and time, a raster, and the stream behind the units."""
    flow, raster = run.read_analysis("flow"), run.read_analysis("raster")
    if flow is None:
        return None
    html = (
        f"<p>{flow['samples']:,} test images of {escape(flow['data'])}, {escape(flow['checkpoint'])} checkpoint: "
        f"{flow['spikes_per_neuron']:.3f} spikes per neuron and image. Silent neurons never fired, saturated ones put "
        "out their most at every step; an open potential lets a gradient through its surrogate, and a dormant neuron "
        "has none.</p>"
    )
    charts = [*_rate_charts(flow["neurons"], flow["T"]), *_maps(flow["neurons"], flow["T"])]
    charts += [_raster(raster)] if raster is not None else []
    charts.append(_window_chart(flow["neurons"]))
    if flow["units"]:
        streams = {part: [mean(u[part]) for u in flow["units"]] for part in ("mean", "variance")}
        streams["maximum"] = [max(u["largest"]) for u in flow["units"]]
        charts.append(depth_chart(flow["units"], streams, "unit", "value", "Stream behind every unit", caption=STREAM))
    return Section("Firing", html, tuple(charts))


def _rate_charts(neurons: Sequence[Mapping[str, Any]], T: int) -> list[Chart]:
    """Draw rates, and where neurons have several levels how often each is put out."""
    rates = {"mean over time": [mean(n["rate"]) for n in neurons]}
    if T <= MOST_STEPS:
        rates = {f"step {step + 1}": [n["rate"][step] for n in neurons] for step in range(T)}
    most = max(len(n["histogram"]) for n in neurons)
    several = most > 2
    unit = "mean count per step" if several else "share that fires"
    charts = [
        depth_chart(neurons, rates, NEURONS_AXIS, unit, "Firing rate along depth", caption=RATES, percent=not several)
    ]
    if several:
        levels = {f"puts out {k}": [dict(enumerate(n["histogram"])).get(k, 0.0) for n in neurons] for k in range(most)}
        charts.append(
            depth_chart(neurons, levels, NEURONS_AXIS, "share", "Levels along depth", caption=LEVELS, percent=True)
        )
    return charts


def _maps(neurons: Sequence[Mapping[str, Any]], T: int) -> list[Chart]:
    """Draw depth to the right, time upwards; nothing where there is one step, of which the lines tell all."""
    if T == 1:
        return []
    quantities = {"rate": "firing rate"}
    if all(n["open"] is not None for n in neurons):
        quantities |= {"open": "potentials open", "dormant": "dormant"}
    cells: list[Point] = [
        {
            "x": places[0] + 0.5,
            "x2": places[-1] + 1.5,
            "y": times[0] + 0.5,
            "y2": times[-1] + 1.5,
            "name": " to ".join(dict.fromkeys((neurons[places[0]]["name"], neurons[places[-1]]["name"]))),
            "label": " to ".join(dict.fromkeys((f"time step {times[0] + 1}", f"time step {times[-1] + 1}"))),
            **{key: block_mean([n[key] for n in neurons], places, times) for key in quantities},
        }
        for places in bins(len(neurons), MOST_PLACES)
        for times in bins(T, MOST_TIMES)
    ]
    spec = map_chart(cells, quantities, x=NEURONS_AXIS, y="time step", title="Firing over depth and time")
    return [Chart(spec, "Firing over depth and time; choose what the colour shows.")]


def _raster(raster: Mapping[str, Any]) -> Chart:
    """Draw every population as wide as 1, its time steps beside each other in it."""
    populations = raster["populations"]
    width = 1 / (raster["steps"] + 1)  # a gap of one step between populations
    marks: list[Point] = [
        {
            "x": round(place + step * width, 4),
            "y": row,
            "name": p["name"],
            "step": step + 1,
            "neuron": neuron,
            "count": n,
        }
        for place, p in enumerate(populations, start=1)
        for step, counts in enumerate(p["counts"], start=1)
        for row, (neuron, n) in enumerate(zip(p["neurons"], counts, strict=True))
        if n
    ]
    spec = raster_chart(
        marks,
        width=width,
        x=f"populations of neurons, {raster['steps']} time steps in each",
        y="neurons, drawn at random",
        title="Raster of one image",
        largest=max(p["levels"] for p in populations),
        ends=(len(populations) + 1, max(len(p["neurons"]) for p in populations)),
    )
    part = (
        f"{len(populations)} of {raster['of']} populations" if len(populations) < raster["of"] else "every population"
    )
    steps = f", its first {raster['steps']} of {raster['T']} time steps" if raster["steps"] < raster["T"] else ""
    image = escape(f"{raster['image']} (class {raster['true']}, found to be {raster['guess']})")
    return Chart(spec, f"Spikes of some neurons of {part} for test image {image}{steps}.")


def _window_chart(neurons: Sequence[Mapping[str, Any]]) -> Chart:
    shares = {"silent": [n["silent"] for n in neurons], "saturated": [n["saturated"] for n in neurons]}
    if all(n["open"] is not None for n in neurons):
        shares |= {"potentials open": [mean(n["open"]) for n in neurons]}
        shares |= {"dormant per step": [mean(n["dormant"]) for n in neurons]}
        shares |= {"dormant at all steps": [n["dormant_throughout"] for n in neurons]}
    title = "Silent, saturated and dormant neurons along depth"
    caption = "Share of the neurons of every population that never fire, fire at every step, or get no gradient."
    return depth_chart(neurons, shares, NEURONS_AXIS, "share", title, caption=caption, percent=True)

"""What the conversion of an ANN costs: accuracy and energy against T, and the error of every layer by its parts."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from isospike.report.charts import line_chart
from isospike.report.sections.base import Chart, Section, depth_chart, series, table
from isospike.run_folder import RunFolder
from isospike.text import energy_unit

PARTS = ("clipping", "quantisation", "unevenness", "inherited")
WHAT = (
    "Root mean squares over images and neurons, as shares of that of the activation. Clipping: what is above the "
    "largest output. Quantisation: rounding of an even current. Unevenness: spikes that come too early or too late. "
    "Inherited: what the layers before it have already got wrong. The four add up to the error neuron by neuron."
)


def conversion(run: RunFolder) -> Section | None:
    """Show a converted network beside its ANN."""
    found = run.read_analysis("conversion")
    if found is None:
        return None
    note = f" ({found['note']})" if found["note"] else ""
    options = "".join(f", {key}={value}" for key, value in found["options"].items())
    html = "".join(f"<p>{escape(sentence)}</p>" for sentence in found["recommendation"])
    html += (
        f"<p class='hint'>{escape(found['model'])} by {escape(found['method'] + options)} on {found['calibration']:,} "
        f"training images; accuracies on {found['images']:,} test images of {escape(found['data'] + note)}.</p>"
    )
    unit, per_mj = energy_unit([found["ann_mj"], *(step["mj"] for step in found["energy"])])
    html += _steps(found, unit, per_mj) + _early(found["early_exit"])
    return Section("Conversion", html, tuple(_charts(found, unit, per_mj)))


def _steps(found: Mapping[str, Any], unit: str, per_mj: float) -> str:
    rows = []
    for step in found["energy"]:
        accuracy = found["accuracy"][step["T"] - 1]
        lost = 100 * (found["ann_accuracy"] - accuracy)
        spent = f"{per_mj * step['mj']:,.4g}", f"{step['spikes_per_neuron']:.3f}"
        rows.append((str(step["T"]), f"{accuracy:.2%}", f"{lost:.2f}", *spent))
    rows.append(("ANN", f"{found['ann_accuracy']:.2%}", "0.00", f"{per_mj * found['ann_mj']:,.4g}", "-"))
    return table(("T", "accuracy", "points lost", f"energy per image, {unit}", "spikes per neuron"), rows)


def _early(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return ""
    return (
        f"<p>Early exit, with a margin that keeps {found['agreement']:.0%} of the answers on calibration images: "
        f"{found['accuracy']:.2%} of {found['images']:,} test images in {found['average_steps']:.2f} steps on average."
        "</p>"
    )


def _charts(found: Mapping[str, Any], unit: str, per_mj: float) -> list[Chart]:
    accuracy = [{"x": t, "value": value} for t, value in enumerate(found["accuracy"], start=1)]
    spent = [{"x": step["T"], "value": per_mj * step["mj"]} for step in found["energy"]]
    layers = found["layers"]
    errors = {part: [layer[part] for layer in layers] for part in ("error", *PARTS)}
    correlation = [float("nan") if layer["correlation"] is None else layer["correlation"] for layer in layers]
    where = "layer of neurons, in the order of the network"
    return [
        _beside_ann(accuracy, found["ann_accuracy"], "accuracy", "Accuracy against T, beside the ANN", percent=True),
        _beside_ann(spent, per_mj * found["ann_mj"], unit, "Energy per image against T, beside the ANN", percent=False),
        depth_chart(layers, errors, where, "share", "Error by layer", caption=f"{WHAT} T={found['T']}.", percent=True),
        depth_chart(
            layers,
            {"correlation": correlation},
            where,
            "correlation",
            "Correlation with the ANN by layer",
            caption="Of activations of the ANN and mean outputs of the neurons, over images and neurons.",
        ),
    ]


def _beside_ann(points: Sequence[Mapping[str, Any]], ann: float, y: str, title: str, *, percent: bool) -> Chart:
    """Draw a line over T, and the ANN as a level line; steps double from tick to tick."""
    level = [{"x": x, "value": ann} for x in (points[0]["x"], points[-1]["x"])]
    lines = [*series(points, "value", "converted", x="x"), *series(level, "value", "ANN", x="x")]
    spec = line_chart(lines, x="time steps T", y=y, title=title, percent=percent, from_zero=False, doubling=True)
    return Chart(spec, f"{escape(title)}.")

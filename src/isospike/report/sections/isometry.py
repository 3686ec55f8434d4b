"""How gradients are passed on along depth."""

import math
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from isospike.report.charts import Point, line_chart, thin
from isospike.report.sections.base import Chart, Section, table
from isospike.run_folder import RunFolder


def isometry(run: RunFolder) -> Section | None:
    """Show how every unit passes gradients on, and how long they are along depth."""
    found = run.read_analysis("isometry")
    if found is None:
        return None
    state = f"{found['checkpoint']} checkpoint, T={found['T']}, {found['batch']} {found['images']}"
    said = [found["verdict"], *found["verdict"]["notes"]]
    html = f"<p><b>{escape(said[0]['text'])}.</b></p>" + "".join(f"<p>{escape(note['text'])}.</p>" for note in said[1:])
    html += f"<p class='hint'>{escape(state)}, {found['probes']} probes per unit, batch statistics.</p>"
    rows = [(note["text"], note["reason"]) for note in said]
    html += f"<details><summary>Why</summary>{table(('finding', 'rule and source'), rows)}</details>"
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
    kept = [u for u in units if not u["projects"]]
    lines = {"all units": units}
    if 0 < len(kept) < len(units) and all(u["phi"]["value"] > 0 for u in units):
        lines["those that keep their shape"] = kept
    grown = [{**point, "series": name} for name, each in lines.items() for point in products(each)]
    if grown:
        chart = line_chart(grown, x="unit", y="log10 of the product of phi", title="Product of phi")
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


def products(units: Sequence[Mapping[str, Any]]) -> list[Point]:
    """Return log10 of the product of phi from the last unit to each; it ends at one that passes nothing."""
    total, points = 0.0, []
    for unit in reversed(units):
        if not unit["phi"]["value"] > 0:
            break
        total += math.log10(unit["phi"]["value"])
        points.append({"x": unit["index"], "value": total, "name": unit["name"]})
    return points[::-1]

"""How time and memory grow with depth, T, batch and width: tables and charts."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from isospike.bench.cases import GROWTH, Case, growth_case
from isospike.bench.measure import Row
from isospike.bench.table import one_of
from isospike.optional import import_optional
from isospike.report.charts import Spec, line_chart

Points = list[tuple[float, float]]


def exponents(points: Sequence[tuple[float, float]]) -> list[float]:
    """Return the power by which y grows from each point ``(x, y)`` to the next: 1 is linear, 0 constant."""
    return [math.log(y1 / y0) / math.log(x1 / x0) for (x0, y0), (x1, y1) in zip(points, points[1:], strict=False)]


def curves(result: Mapping[str, Any]) -> dict[str, dict[str, Points]]:
    """Return the points ``(value of the axis, milliseconds or megabytes)`` by axis and by what was measured."""
    by_case = {_key(row): row for row in result["rows"]}
    found: dict[str, dict[str, Points]] = {}
    for axis, values in GROWTH.items():
        rows = [(value, by_case[_key(vars(growth_case(axis, value)))]) for value in values]
        found[axis] = {
            "training step, milliseconds": [(value, _median(row, "ours") * 1e3) for value, row in rows],
            "convolutions alone, milliseconds": [(value, _median(row, "floor") * 1e3) for value, row in rows],
            "peak memory, megabytes": [(value, one_of(row, "ours")["peak_memory_mb"]) for value, row in rows],
        }
    return found


def growth_markdown(result: Mapping[str, Any]) -> str:
    """Return a table per axis: every point, and the power by which it grew from the point before."""
    parts = []
    for axis, measured in curves(result).items():
        case = growth_case(axis, GROWTH[axis][0])
        held = {"T": case.T, "batch": case.batch, "depth": 20, "width": 16}
        del held[axis]
        parts.append(f"**{axis}**, at {', '.join(f'{key} {value}' for key, value in held.items())}\n")
        table = [f"| {axis} | " + " | ".join(f"{name} | power" for name in measured) + " |"]
        table.append("|" + "---|" * (1 + 2 * len(measured)))
        powers = {name: ["-", *(f"{power:.2f}" for power in exponents(points))] for name, points in measured.items()}
        for index, value in enumerate(GROWTH[axis]):
            cells = [f"{points[index][1]:,.0f} | {powers[name][index]}" for name, points in measured.items()]
            table.append(f"| {value} | " + " | ".join(cells) + " |")
        parts.append("\n".join(table) + "\n")
    return "\n".join(parts)


def charts(result: Mapping[str, Any]) -> dict[str, Spec]:
    """Return charts by file name: time, and memory, along every axis."""
    found = {}
    for axis, measured in curves(result).items():
        for kind in ("milliseconds", "megabytes"):
            points = [
                {"x": x, "value": y, "series": name.split(",")[0]}
                for name, curve in measured.items()
                if name.endswith(kind)
                for x, y in curve
            ]
            spec = line_chart(points, x=axis, y=kind, title=f"{kind} of a training step against {axis}")
            found[f"{axis}_{kind}"] = {**spec, "width": 360}
    return found


def draw(result: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write every chart to ``folder`` as SVG and PNG.

    Raises:
        MissingExtra: the library that draws is not there.
    """
    library = import_optional("vl_convert", extra="report", purpose="drawing charts")
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for name, spec in charts(result).items():
        svg, png = folder / f"{name}.svg", folder / f"{name}.png"
        svg.write_text(library.vegalite_to_svg(spec))
        png.write_bytes(library.vegalite_to_png(spec, scale=2))
        files += [svg, png]
    return files


def covers(cases: Sequence[Case]) -> bool:
    """Return whether these are the points of the growth suite."""
    return {_key(vars(case)) for case in cases} >= {
        _key(vars(growth_case(axis, value))) for axis, values in GROWTH.items() for value in values
    }


def _key(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return row["work"], row["model"], row["batch"], row["T"], tuple(sorted(row["options"].items()))


def _median(row: Row, role: str) -> float:
    return float(one_of(row, role)["seconds"]["median"])

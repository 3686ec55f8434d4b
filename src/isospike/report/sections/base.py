"""What sections are made of: the section itself, charts with captions, tables, and lines over steps or depth."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

from isospike.report.charts import Spec, line_chart, thin


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
        pictures: SVG by name, drawn before the charts; each escapes what is foreign in it.
    """

    title: str
    html: str = ""
    charts: tuple[Chart, ...] = ()
    pictures: Mapping[str, str] = field(default_factory=dict)


def series(records: Iterable[Mapping[str, Any]], key: str, name: str, *, x: str = "step") -> list[dict[str, Any]]:
    """Return the points of the records that have ``key``, as one line called ``name``."""
    return thin([{"x": r[x], "value": r[key], "series": name} for r in records if key in r])


def depth_chart(
    places: Sequence[Mapping[str, Any]],
    lines: Mapping[str, Sequence[float]],
    x: str,
    y: str,
    title: str,
    *,
    caption: str,
    percent: bool = False,
) -> Chart:
    """Draw lines over places of the network that have a ``name``; the caption is plain text."""
    points = [point for name, values in lines.items() for point in depth_series(places, values, name)]
    return Chart(line_chart(points, x=x, y=y, title=title, percent=percent), escape(caption))


def depth_series(places: Sequence[Mapping[str, Any]], values: Sequence[float], name: str) -> list[dict[str, Any]]:
    """Return one line over places of the network, counted from 1."""
    pairs = zip(places, values, strict=True)
    return [{"x": x, "value": v, "series": name, "name": p["name"]} for x, (p, v) in enumerate(pairs, start=1)]


def mean(values: Sequence[float]) -> float:
    """Return the mean of at least one number."""
    return sum(values) / len(values)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table that scrolls where it is too wide; a head of empty strings is left out."""
    heads = "".join(f"<th>{escape(cell)}</th>" for cell in head) if any(head) else ""
    body = "".join("<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="wide" tabindex="0"><table>{f"<tr>{heads}</tr>" if heads else ""}{body}</table></div>'


def flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Return nested mappings as dotted names."""
    rows: list[tuple[str, str]] = []
    for key, value in values.items():
        name = f"{prefix}{key}"
        rows += (
            flat(value, f"{name}.")
            if isinstance(value, Mapping)
            else [(name, "-" if value in (None, "") else str(value))]
        )
    return rows

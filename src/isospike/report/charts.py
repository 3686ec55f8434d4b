"""Charts as Vega-Lite specifications: plain data, drawn in the browser, or to SVG by vl-convert."""

from collections.abc import Sequence
from typing import Any

Spec = dict[str, Any]
Point = dict[str, Any]

SCHEMA = "https://vega.github.io/schema/vega-lite/v6.json"
MAX_POINTS = 600  # per series; more would not be seen and make the page heavy


def line_chart(
    points: Sequence[Point],
    *,
    x: str,
    y: str,
    title: str,
    percent: bool = False,
    log: bool = False,
    band: bool = False,
) -> Spec:
    """Lines over ``x``, one for every value of ``series``.

    Hover shows the values, the legend picks series, shift and the wheel zoom along ``x``, a double click goes back.

    Args:
        points: Each with ``x``, ``value`` and ``series``; a ``name`` is shown on hover.
        x: Title of the horizontal axis.
        y: Title of the vertical axis.
        title: What a screen reader says.
        percent: Values are shares in [0, 1].
        log: Logarithmic vertical axis.
        band: Shade what lies between ``low`` and ``high`` of the points that have them.
    """
    series = list(dict.fromkeys(point["series"] for point in points))
    scale = {"type": "log"} if log else {"zero": percent}
    named: dict[str, Any] = {"field": "series", "type": "nominal", "title": None, "scale": {"domain": series}}
    # In two columns: a phone is narrow, and what does not fit would be cut off.
    named["legend"] = {"columns": 2} if len(series) > 1 else None
    tooltip = [
        {"field": "x", "type": "quantitative", "title": x, "format": ","},
        {"field": "series", "type": "nominal", "title": "series"},
        {"field": "value", "type": "quantitative", "title": y, "format": ".2%" if percent else ".4~g"},
    ]
    if any("name" in point for point in points):
        tooltip.insert(0, {"field": "name", "type": "nominal", "title": "name"})
    picked = {"name": "picked", "select": {"type": "point", "fields": ["series"]}, "bind": "legend"}
    zoom = {
        "name": "zoom",
        "select": {"type": "interval", "encodings": ["x"], "zoom": "wheel![event.shiftKey]"},
        "bind": "scales",
    }
    hover = {"name": "hover", "select": {"type": "point", "on": "pointerover", "nearest": True, "clear": "pointerout"}}
    shade = {
        "transform": [{"filter": "isValid(datum.low) && isValid(datum.high)"}],
        "mark": {"type": "area", "clip": True, "opacity": 0.25},
        "encoding": {"y": {"field": "low", "type": "quantitative", "title": y}, "y2": {"field": "high"}},
    }
    return {
        "$schema": SCHEMA,
        "description": title,
        "width": "container",
        "height": 240,
        "data": {"values": list(points)},
        "encoding": {
            "x": {"field": "x", "type": "quantitative", "title": x, "axis": {"tickMinStep": 1}},
            "y": {
                "field": "value",
                "type": "quantitative",
                "title": y,
                "axis": {"format": ".0%"} if percent else {},
                "scale": scale,
            },
            "color": named,
        },
        "layer": [
            *([shade] if band else []),
            {
                "params": [picked, zoom],
                "mark": {"type": "line", "clip": True, "strokeWidth": 2},
                "encoding": {
                    "strokeDash": named,
                    "opacity": {"condition": {"param": "picked", "value": 1}, "value": 0.1},
                },
            },
            {
                "params": [hover],
                "mark": {"type": "point", "filled": True, "size": 60, "clip": True},
                "encoding": {
                    "opacity": {"condition": {"param": "hover", "empty": False, "value": 1}, "value": 0},
                    "tooltip": tooltip,
                },
            },
        ],
    }


def heat_map(matrix: Sequence[Sequence[int]], labels: Sequence[str], *, title: str) -> Spec:
    """A confusion matrix: rows are true classes, columns predicted ones, colour the share of the row."""
    cells = [
        {"true": labels[row], "predicted": labels[column], "images": count, "share": count / max(1, sum(counts))}
        for row, counts in enumerate(matrix)
        for column, count in enumerate(counts)
        if count
    ]
    side = max(260, min(760, 24 * len(labels)))
    axis = {"type": "nominal", "scale": {"domain": list(labels)}}
    return {
        "$schema": SCHEMA,
        "description": title,
        "width": side,
        "height": side,
        "data": {"values": cells},
        "mark": {"type": "rect", "tooltip": True},
        "encoding": {
            "x": {**axis, "field": "predicted", "title": "predicted class", "axis": {"labelAngle": -45}},
            "y": {**axis, "field": "true", "title": "true class"},
            "color": {
                "field": "share",
                "type": "quantitative",
                "title": "share of the true class",
                "scale": {"scheme": "blues", "domain": [0, 1]},
                "legend": {"format": ".0%"},
            },
            "tooltip": [
                {"field": "true", "title": "true class"},
                {"field": "predicted", "title": "predicted class"},
                {"field": "images", "title": "images"},
                {"field": "share", "type": "quantitative", "title": "share", "format": ".1%"},
            ],
        },
    }


def thin(points: Sequence[Point]) -> list[Point]:
    """At most ``MAX_POINTS`` points of one series: means of equal runs of points, each at its last ``x``."""
    size = -(-len(points) // MAX_POINTS)
    if size <= 1:
        return list(points)
    runs = [points[start : start + size] for start in range(0, len(points), size)]
    return [{**run[-1], "value": sum(point["value"] for point in run) / len(run)} for run in runs]

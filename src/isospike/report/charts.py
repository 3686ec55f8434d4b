"""Charts as Vega-Lite specifications: plain data, drawn in the browser, or to SVG by vl-convert."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

Spec = dict[str, Any]
Point = dict[str, Any]

SCHEMA = "https://vega.github.io/schema/vega-lite/v6.json"
# Steps, epochs and units are whole numbers: a tick between two of them has no label.
WHOLE = {"tickMinStep": 1, "format": ",d", "labelExpr": "datum.value % 1 ? '' : datum.label"}
COLOUR_BAR = {"gradientLength": 180, "tickCount": 5, "format": ".2~g"}
DENSE = 200  # points per series from which on lines are thin
TICKS = 6  # on a vertical axis, about
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
    from_zero: bool | None = None,
    doubling: bool = False,
) -> Spec:
    """Draw lines over ``x``, one for every value of ``series``.

    Hover shows the values, the legend picks series, shift and the wheel zoom along ``x``, a double click goes back.

    Args:
        points: Each with ``x``, ``value`` and ``series``; a ``name`` is shown on hover. A value that is not finite is
            left out.
        x: Title of the horizontal axis.
        y: Title of the vertical axis.
        title: What a screen reader says.
        percent: Values are shares in [0, 1].
        log: Logarithmic vertical axis.
        band: Shade what lies between ``low`` and ``high`` of the points that have them.
        from_zero: Whether the vertical axis begins at 0; None: where values are shares.
        doubling: ``x`` doubles from tick to tick; it is above 0.
    """
    points = [point for point in points if math.isfinite(point["value"])]
    series = list(dict.fromkeys(point["series"] for point in points))
    zero = percent if from_zero is None else from_zero
    scale: dict[str, Any] = {"type": "log", "nice": False, "padding": 8} if log else {"zero": zero}
    dense = len(points) > DENSE * len(series)
    named: dict[str, Any] = {"field": "series", "type": "nominal", "title": None, "scale": {"domain": series}}
    # In two columns: a phone is narrow, and what does not fit would be cut off.
    named["legend"] = {"columns": 2, "symbolType": "stroke", "symbolSize": 400} if len(series) > 1 else None
    layers = [_lines(named, 1 if dense else 2), _hovered_points(points, x, y, percent)]
    return {
        "$schema": SCHEMA,
        "description": title,
        "width": "container",
        "height": 240,
        "data": {"values": list(points)},
        "encoding": {
            "x": {
                "field": "x",
                "type": "quantitative",
                "title": x,
                "axis": WHOLE,
                "scale": {"type": "log", "base": 2, "nice": False} if doubling else {},
            },
            "y": {
                "field": "value",
                "type": "quantitative",
                "title": y,
                "axis": {"format": percent_format([point["value"] for point in points], zero)} if percent else {},
                "scale": scale,
            },
            "color": named,
        },
        "layer": [_shade(y), *layers] if band else layers,
    }


def percent_format(shares: Sequence[float], from_zero: bool) -> str:
    """Choose as many digits as it takes to tell the ticks of an axis apart."""
    span = max([*shares, 0.0]) - min([*shares, 0.0]) if from_zero else max(shares, default=0) - min(shares, default=0)
    between_ticks = max(span / TICKS, 1e-5)
    return f".{max(0, math.ceil(-math.log10(between_ticks)) - 2)}%"


def _lines(named: Spec, width: int) -> Spec:
    """Draw the lines, with the parameters that pick and zoom."""
    picked = {"name": "picked", "select": {"type": "point", "fields": ["series"]}, "bind": "legend"}
    zoom = {
        "name": "zoom",
        "select": {"type": "interval", "encodings": ["x"], "zoom": "wheel![event.shiftKey]"},
        "bind": "scales",
    }
    return {
        "params": [picked, zoom],
        "mark": {"type": "line", "clip": True, "strokeWidth": width},
        "encoding": {
            "strokeDash": named,
            "opacity": {"condition": {"param": "picked", "value": 1}, "value": 0.1},
        },
    }


def _hovered_points(points: Sequence[Point], x: str, y: str, percent: bool) -> Spec:
    """Draw points that are seen, with their values, where the pointer is."""
    tooltip = [
        {"field": "x", "type": "quantitative", "title": x, "format": ","},
        {"field": "series", "type": "nominal", "title": "series"},
        {"field": "value", "type": "quantitative", "title": y, "format": ".2%" if percent else ".4~g"},
    ]
    if any("name" in point for point in points):
        tooltip.insert(0, {"field": "name", "type": "nominal", "title": "name"})
    hover = {"name": "hover", "select": {"type": "point", "on": "pointerover", "nearest": True, "clear": "pointerout"}}
    return {
        "params": [hover],
        "mark": {"type": "point", "filled": True, "size": 60, "clip": True},
        "encoding": {
            "opacity": {"condition": {"param": "hover", "empty": False, "value": 1}, "value": 0},
            "tooltip": tooltip,
        },
    }


def _shade(y: str) -> Spec:
    """Draw the band between ``low`` and ``high``."""
    return {
        "transform": [{"filter": "isValid(datum.low) && isValid(datum.high)"}],
        "mark": {"type": "area", "clip": True, "opacity": 0.25},
        "encoding": {"y": {"field": "low", "type": "quantitative", "title": y}, "y2": {"field": "high"}},
    }


def heat_map(matrix: Sequence[Sequence[int]], labels: Sequence[str], *, title: str) -> Spec:
    """Draw a confusion matrix: rows are true classes, columns predicted ones, colour the share of the row."""
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
                "scale": {"range": "ramp", "domain": [0, 1]},
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


def map_chart(
    cells: Sequence[Point], quantities: Mapping[str, str], *, x: str, y: str, title: str, downwards: bool = False
) -> Spec:
    """Draw colours over two axes; where there are several quantities, a list below the chart picks one.

    Args:
        cells: Each from ``x`` to ``x2`` and from ``y`` to ``y2``, with a ``name`` and a number for every quantity.
        quantities: Titles by the key of the cell; the first is shown first.
        x: Title of the horizontal axis.
        y: Title of the vertical axis.
        title: What a screen reader says.
        downwards: The vertical axis begins at the top.
    """
    first, names = next(iter(quantities)), list(quantities.values())
    picked: dict[str, Any] = {"name": "shown", "value": first}
    if len(names) > 1:
        picked["bind"] = {"input": "select", "options": list(quantities), "labels": names, "name": "Colour: "}
    axis: dict[str, Any] = {"type": "quantitative", "scale": {"nice": False, "zero": False}}
    ticks = {**WHOLE, "grid": False}
    colour = {"field": "value", "type": "quantitative", "title": None, "scale": {"scheme": "viridis"}}
    place = [{"field": "name", "title": "name"}, {"field": "label", "title": "at"}]
    numbers = [
        {"field": key, "title": name, "type": "quantitative", "format": ".4~g"} for key, name in quantities.items()
    ]
    return {
        "$schema": SCHEMA,
        "description": title,
        "width": "container",
        "height": 240,
        "params": [picked],
        "data": {"values": list(cells)},
        "transform": [{"calculate": "datum[shown]", "as": "value"}],
        "mark": {"type": "rect", "clip": True},
        "encoding": {
            "x": {**axis, "field": "x", "title": x, "axis": ticks},
            "x2": {"field": "x2"},
            "y": {**axis, "field": "y", "title": y, "axis": ticks, "scale": {**axis["scale"], "reverse": downwards}},
            "y2": {"field": "y2"},
            "color": {**colour, "legend": {**COLOUR_BAR, "orient": "right"}},
            "tooltip": [*place, *numbers],
        },
    }


def raster_chart(
    spikes: Sequence[Point], *, width: float, x: str, y: str, title: str, largest: int, ends: tuple[int, int]
) -> Spec:
    """Draw a mark for every spike, the stronger the more of them there are.

    Args:
        spikes: Each at ``x`` and ``y``, with ``name``, ``step``, ``neuron`` and ``count``.
        width: Of a mark; its height is that of a row.
        x: Title of the horizontal axis.
        y: Title of the vertical axis.
        title: What a screen reader says.
        largest: The largest count there can be.
        ends: Where both axes end; they begin at 1 and 0.
    """
    axis: dict[str, Any] = {"type": "quantitative", "axis": {**WHOLE, "grid": False}}
    tooltip = [{"field": key, "title": key} for key in ("name", "step", "neuron", "count")]
    opacity = {"field": "count", "type": "quantitative", "scale": {"domain": [0, largest]}, "legend": None}
    return {
        "$schema": SCHEMA,
        "description": title,
        "width": "container",
        "height": 260,
        "data": {"values": list(spikes)},
        "transform": [
            {"calculate": f"datum.x + {width}", "as": "x2"},
            {"calculate": "datum.y + 0.9", "as": "y2"},
        ],
        "mark": {"type": "rect", "clip": True},
        "encoding": {
            "x": {**axis, "field": "x", "title": x, "scale": {"domain": [1, ends[0]], "nice": False}},
            "x2": {"field": "x2"},
            "y": {**axis, "field": "y", "title": y, "scale": {"domain": [0, ends[1]], "nice": False}},
            "y2": {"field": "y2"},
            "color": {"datum": "spikes", "type": "nominal", "legend": None},
            "opacity": opacity if largest > 1 else {"value": 1},
            "tooltip": tooltip,
        },
    }


def still(spec: Spec) -> Spec:
    """Return the chart without what answers a pointer, for a file that nobody hovers over."""
    if "layer" not in spec:
        return spec
    return {**spec, "layer": [layer for layer in spec["layer"] if "tooltip" not in layer["encoding"]]}


def thin(points: Sequence[Point]) -> list[Point]:
    """Thin one series to ``MAX_POINTS`` points: means of equal runs of points, each at its last ``x``."""
    size = -(-len(points) // MAX_POINTS)
    if size <= 1:
        return list(points)
    runs = [points[start : start + size] for start in range(0, len(points), size)]
    return [{**run[-1], "value": sum(point["value"] for point in run) / len(run)} for run in runs]


def bins(count: int, most: int) -> list[range]:
    """Return ``range(count)`` cut into at most ``most`` runs, all but the last of one length."""
    size = max(1, -(-count // most))
    return [range(start, min(start + size, count)) for start in range(0, count, size)]


def block_mean(rows: Sequence[Sequence[float]], of_rows: range, of_columns: range) -> float:
    """Return the mean of a block of a matrix, to four digits: a colour shows no more."""
    total = sum(rows[row][column] for row in of_rows for column in of_columns)
    return float(f"{total / (len(of_rows) * len(of_columns)):.4g}")

"""The pictures of a sweep as Vega-Lite: a colour and a shape per series, a dash per style."""

from collections.abc import Sequence

from isospike.report.charts import SCHEMA, Point, Spec

# For files, which stand on white: Okabe and Ito's colours, told apart by every kind of eye.
COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#E69F00", "#56B4E9", "#999999"]
STATIC: Spec = {
    "background": "white",
    "font": "sans-serif",
    "range": {"category": COLOURS},
    "legend": {"orient": "top", "symbolSize": 200, "labelLimit": 400},
}
DASHES = [[1, 0], [5, 3], [2, 2], [8, 2, 2, 2]]


def accuracy_chart(points: Sequence[Point], series: Sequence[str], depths: Sequence[int]) -> Spec:
    """Draw accuracy against depth: ``x``, ``value``, ``low``, ``high``, ``series``, ``style`` and ``n``."""
    spec = _lines(
        points,
        series,
        list(dict.fromkeys(point["style"] for point in points)),
        x={
            "title": "depth",
            "axis": {"values": sorted(depths)},
            "scale": {"zero": False, "nice": False, "padding": 10},
        },
        y={"title": "accuracy", "axis": {"format": ".0%"}, "scale": {"domain": [0, 1]}},
        form=".2%",
        size=40,
    )
    bars = {"mark": {"type": "rule", "strokeWidth": 1.5}, "encoding": {"y": {"field": "low"}, "y2": {"field": "high"}}}
    return {**spec, "description": "Accuracy against depth", "height": 320, "layer": [bars, *spec["layer"]]}


def unit_chart(
    points: Sequence[Point],
    series: Sequence[str],
    *,
    y: str,
    styles: Sequence[str] = (),
    log: bool = False,
    band: bool = False,
) -> Spec:
    """Draw a quantity by unit: ``x``, ``value``, ``series``, ``depth``, ``style`` where there are styles.

    Args:
        points: All depths.
        series: In the order of their colours.
        y: Title of the vertical axis.
        styles: In the order of their dashes.
        log: Logarithmic vertical axis.
        band: Shade what lies between ``low`` and ``high``.
    """
    scale = {"type": "log"} if log else {"zero": True}
    spec = _lines(
        points,
        series,
        styles,
        x={"title": "unit, from stem to head", "axis": {"tickMinStep": 1}},
        y={"title": y, "scale": scale, "axis": {"format": ".0e", "tickCount": 6} if log else {}},
        form=".4~g",
        size=8,  # so small that they leave the dashes to be seen
    )
    shade = {
        "mark": {"type": "area", "opacity": 0.2},
        "encoding": {"y": {"field": "low", "type": "quantitative", "title": y}, "y2": {"field": "high"}},
    }
    spec["layer"] = [*([shade] if band else []), *spec["layer"]]
    return {**spec, "description": f"{y} by unit", "height": 280}


def alone(spec: Spec) -> Spec:
    """Show, on the page, one depth at a time, to be chosen below; the deepest at first."""
    depths = sorted({point["depth"] for point in spec["data"]["values"] if "depth" in point})
    wide = {**spec, "width": "container"}
    if not depths:
        return wide
    choice = {"input": "select", "options": depths, "name": "depth "}
    wide["params"] = [{"name": "chosen", "value": depths[-1], "bind": choice}]
    return {**wide, "transform": [{"filter": "datum.depth == chosen"}]}


def side_by_side(spec: Spec) -> Spec:
    """Show, in a file, every depth beside the others."""
    if not any("depth" in point for point in spec["data"]["values"]):
        return {**spec, "width": 560}
    outer = {key: spec[key] for key in ("$schema", "description", "data")}
    inner = {key: value for key, value in spec.items() if key not in outer}
    facet = {"field": "depth", "type": "ordinal", "title": "depth", "header": {"titleOrient": "top"}}
    return {
        **outer,
        "facet": facet,
        "columns": 3,
        "spec": {**inner, "width": 260, "height": 200},
        "resolve": {"scale": {"x": "independent"}},
    }


def _lines(
    points: Sequence[Point], series: Sequence[str], styles: Sequence[str], *, x: Spec, y: Spec, form: str, size: int
) -> Spec:
    """Draw lines with points, a legend that picks a series, and the numbers on hover."""
    colour: Spec = {"field": "series", "type": "nominal", "title": None, "scale": {"domain": list(series)}}
    colour["legend"] = {"columns": 2, "symbolOpacity": 1} if len(series) > 1 else None
    picked = {"name": "picked", "select": {"type": "point", "fields": ["series"]}, "bind": "legend"}
    shown = {"condition": {"param": "picked", "value": 1}, "value": 0.1}
    encoding: Spec = {
        "x": {"field": "x", "type": "quantitative", **x},
        "y": {"field": "value", "type": "quantitative", **y},
        "color": colour,
    }
    tooltip = [
        {"field": "series", "title": "network"},
        {"field": "x", "type": "quantitative", "title": x["title"]},
        {"field": "value", "type": "quantitative", "title": y["title"], "format": form},
    ]
    lines: Spec = {"opacity": shown}
    if styles:
        dash: Spec = {"field": "style", "type": "nominal", "title": None, "legend": {"symbolType": "stroke"}}
        dash["scale"] = {"domain": list(styles), "range": DASHES[: len(styles)]}
        lines["strokeDash"] = dash  # of points it would make a legend of filled symbols
        tooltip.insert(1, {"field": "style", "title": "of"})
    marks: Spec = {"shape": colour, "opacity": shown, "tooltip": tooltip}
    return {
        "$schema": SCHEMA,
        "data": {"values": list(points)},
        "encoding": encoding,
        "layer": [
            {"params": [picked], "mark": {"type": "line", "strokeWidth": 2}, "encoding": lines},
            {"mark": {"type": "point", "filled": True, "size": size}, "encoding": marks},
        ],
    }

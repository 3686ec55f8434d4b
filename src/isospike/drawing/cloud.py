"""Events as pictures that are drawn: a cloud of points over time, and frames in a row."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from isospike.drawing.xml import element, text

LENGTH, HEIGHT, DEPTH = 760, 230, (150, 90)  # of the box: time, the longer side of rows, columns to the right and up
LEFT, TOP, BELOW = 76, 24, 46
SIDE, GAP, LABEL = 132, 12, 22  # of a frame in a row
PER_ROW = 7

STYLE = """
.isospike-events { font: 13px system-ui, sans-serif; }
.isospike-events text { fill: #1b1f24; }
.isospike-events .middle { text-anchor: middle; }
.isospike-events .end { text-anchor: end; }
.isospike-events .edge { stroke: #8c959f; stroke-width: 1; fill: none; }
.isospike-events .darker { stroke: #0072b2; }
.isospike-events .brighter { stroke: #d55e00; }
.isospike-events .points { stroke-width: 2.4; stroke-linecap: round; stroke-opacity: 0.65; fill: none; }
.isospike-events .frame { fill: none; stroke: #8c959f; }
.isospike-events image { image-rendering: pixelated; }
@media (prefers-color-scheme: dark) {
.isospike-events text { fill: #e6edf3; }
.isospike-events .darker { stroke: #56b4e9; }
.isospike-events .brighter { stroke: #f08c3c; }
.isospike-events image { filter: invert(1) hue-rotate(180deg); }
}
"""


def draw_cloud(
    t: npt.NDArray[np.floating],
    x: npt.NDArray[np.integer],
    y: npt.NDArray[np.integer],
    p: npt.NDArray[np.integer],
    *,
    sensor: tuple[int, int],
    ticks: Sequence[tuple[float, str]],
    title: str,
    time: str,
) -> str:
    """Draw events as points in a box of time and sensor, time to the right, as SVG.

    Args:
        t: Where each lies in time, from 0 to 1.
        x: Columns.
        y: Rows, drawn downwards.
        p: 1: became brighter, 0: became darker.
        sensor: Width and height.
        ticks: Of the axis of time, from 0 to 1, with what stands at them.
        title: For screen readers.
        time: What the axis of time is called.
    """
    scale = HEIGHT / max(sensor)
    height, right, up = scale * sensor[1], DEPTH[0] * sensor[0] / max(sensor), DEPTH[1] * sensor[0] / max(sensor)
    bottom = TOP + up + height

    def corner(at: float, column: float, row: float) -> tuple[float, float]:
        return LEFT + LENGTH * at + right * column, TOP + up + height * row - up * column

    corners = [(at, column, row) for at in (0, 1) for column in (0, 1) for row in (0, 1)]
    edges = [(a, b) for a in corners for b in corners if a < b and sum(i != j for i, j in zip(a, b, strict=True)) == 1]
    lines = "".join(f"M{_at(*corner(*a))}L{_at(*corner(*b))}" for a, b in edges)
    parts = [element("path", {"class": "edge", "d": lines})]
    for polarity, name in enumerate(("darker", "brighter")):
        chosen = p == polarity
        places = zip(t[chosen].tolist(), x[chosen].tolist(), y[chosen].tolist(), strict=True)
        at_pixels = ((at, (column + 0.5) / sensor[0], (row + 0.5) / sensor[1]) for at, column, row in places)
        points = "".join(f"M{_at(*corner(*place))}h0" for place in at_pixels)
        parts.append(element("path", {"class": f"points {name}", "d": points}))
    for at, label in ticks:
        place, _ = corner(at, 0, 1)
        parts.append(element("path", {"class": "edge", "d": f"M{_at(place, bottom)}v5"}))
        parts.append(element("text", {"class": "middle", "x": f"{place:.1f}", "y": f"{bottom + 19:.1f}"}, text(label)))
    middle = LEFT + LENGTH / 2
    parts.append(element("text", {"class": "middle", "x": middle, "y": f"{bottom + 38:.1f}"}, text(time)))
    row = {"class": "end", "x": LEFT - 8, "y": f"{bottom - height / 2 + 4:.1f}"}
    parts.append(element("text", row, text(f"y 0-{sensor[1] - 1}")))
    end, over = corner(1, 0.5, 1)
    parts.append(element("text", {"x": f"{end + 12:.1f}", "y": f"{over + 12:.1f}"}, text(f"x 0-{sensor[0] - 1}")))
    return _svg(LEFT + LENGTH + right + 30, bottom + BELOW, title, parts)


def draw_frames(rows: Sequence[tuple[str, Sequence[tuple[str, str]]]], aspect: float, title: str) -> str:
    """Draw rows of small pictures, each with a line above it, as SVG.

    Args:
        rows: What stands above each row, "" for nothing, and its pictures: their label, and PNG in base64.
        aspect: Height of a picture for a width of 1.
        title: For screen readers.
    """
    width, height = (SIDE, SIDE * aspect) if aspect <= 1 else (SIDE / aspect, SIDE)
    parts, top, most = [], 4.0, 0
    for heading, pictures in rows:
        if heading:
            parts.append(element("text", {"x": 2, "y": f"{top + 14:.1f}"}, text(heading)))
            top += LABEL
        for start in range(0, len(pictures), PER_ROW):
            part = pictures[start : start + PER_ROW]
            most = max(most, len(part))
            for place, (label, png) in enumerate(part):
                left = 2 + place * (width + GAP)
                named = {"class": "middle", "x": f"{left + width / 2:.1f}", "y": f"{top + 14:.1f}"}
                parts.append(element("text", named, text(label)))
                box = {
                    "x": f"{left:.1f}",
                    "y": f"{top + LABEL:.1f}",
                    "width": f"{width:.1f}",
                    "height": f"{height:.1f}",
                }
                parts.append(element("image", {**box, "href": f"data:image/png;base64,{png}"}))
                parts.append(element("rect", {**box, "class": "frame"}))
            top += LABEL + height + GAP
    return _svg(4 + most * (width + GAP) - GAP, top, title, parts)


def _at(u: float, v: float) -> str:
    return f"{u:.1f} {v:.1f}"


def _svg(width: float, height: float, title: str, parts: Sequence[str]) -> str:
    size = {"width": f"{width:.0f}", "height": f"{height:.0f}", "viewBox": f"0 0 {width:.0f} {height:.0f}"}
    head = {"xmlns": "http://www.w3.org/2000/svg", **size, "class": "isospike-events", "role": "img"}
    return element("svg", head, element("title", None, text(title)), element("style", None, text(STYLE)), *parts)

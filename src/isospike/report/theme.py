"""How charts look, on the page and as figures: one home for their colours."""

from typing import Any

# Okabe and Ito's colours, told apart by every kind of eye; each series also has a dash of its own.
LIGHT = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#E69F00", "#56B4E9", "#999999")
DARK = ("#56B4E9", "#E69F00", "#2ED6A3", "#E6A5C9", "#FFFFFF", "#F0E442", "#5B9BD5", "#BBBBBB")


# From little to much, of one cell in a map: little is seen but not loud, in front of either ground.
LIGHT_RAMP, DARK_RAMP = ("#c6dbef", "#6baed6", "#08306b"), ("#24476b", "#4f8fc4", "#d6ebff")


def vega_config(*, dark: bool = False) -> dict[str, Any]:
    """Return what Vega-Lite is told beside every chart; text and lines as in ``page.css``."""
    text, line = ("#e6edf3", "#373e47") if dark else ("#1b1f24", "#d0d7de")
    axis: dict[str, Any] = {
        "labelColor": text,
        "titleColor": text,
        "gridColor": line,
        "domainColor": line,
        "tickColor": line,
    }
    axis |= {"labelOverlap": "greedy", "labelSeparation": 6}  # a label that would touch its neighbour is left out
    symbols = {"symbolType": "stroke", "symbolSize": 250, "symbolStrokeWidth": 2, "symbolOpacity": 1}
    return {
        "background": "transparent",
        "font": "system-ui, sans-serif",
        "range": {"category": list(DARK if dark else LIGHT), "ramp": list(DARK_RAMP if dark else LIGHT_RAMP)},
        "view": {"stroke": line},
        "axis": axis,
        "legend": {"labelColor": text, "titleColor": text, "orient": "top", **symbols},
    }

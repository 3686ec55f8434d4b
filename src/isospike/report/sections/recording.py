"""One test recording of a run: its events, and what the first layers make of them."""

import re
from collections.abc import Mapping
from html import escape
from typing import Any

import numpy as np

from isospike.drawing import draw_cloud, draw_frames
from isospike.report.sections.base import Section
from isospike.run_folder import RunFolder

COLOURS = "Blue became darker, orange became brighter"


def recording(run: RunFolder) -> Section | None:
    """Show the events as a film, as frames beside the spikes of the first layers, and as a cloud over time."""
    shown = run.read_analysis("recording")
    if shown is None:
        return None
    which = f"Test recording {shown['image']} (class {shown['true']}, found to be {shown['guess']})"
    html = f"<p>{escape(which)}, {escape(str(shown['checkpoint']))} checkpoint. {COLOURS}.</p>"
    html += film_html(shown["film"], f"The {shown['T']} frames that the network reads, one after the other.")
    pictures = {"layers": _layers(shown)}
    if shown["points"]:
        pictures["cloud"] = _cloud(shown)
    return Section("Events", html, pictures=pictures)


def film_html(film: Mapping[str, Any], caption: str) -> str:
    """Return frames that move, all events in one frame, and their number, as HTML.

    Args:
        film: As of ``isospike.events.pictures.film``; it may come out of a file.
        caption: Of what moves, plain text.
    """
    moving, whole, heat = (f"data:image/{kind};base64,{_base64(film[name])}" for name, kind in FILM.items())
    still = f'<source media="(prefers-reduced-motion: reduce)" srcset="{whole}">'
    most = f"Events of each pixel of the picture, by their logarithm; {film['most']:,} at most."
    figures = {
        f'<picture>{still}<img src="{moving}" alt="events, moving"></picture>': caption,
        f'<img src="{whole}" alt="all events">': "All events, by what a pixel has more of.",
        f'<img src="{heat}" alt="events per pixel">': most,
    }
    drawn = "".join(f"<figure>{img}<figcaption>{escape(words)}</figcaption></figure>" for img, words in figures.items())
    return f'<div class="recording">{drawn}</div>'


FILM = {"moving": "gif", "whole": "png", "heat": "png"}


def _base64(text: str) -> str:
    """Return text of a file that is to be a picture: in a list of sources anything else could name another page.

    Raises:
        ValueError: it is none.
    """
    if not re.fullmatch(r"[A-Za-z0-9+/]+={0,2}", text):
        raise ValueError("a picture is no base64")
    return text


def _layers(shown: Mapping[str, Any]) -> str:
    """Draw a row of the events and one of every layer."""
    width, height = shown["sensor"]
    labels = [f"step {step}" for step in shown["steps"]]
    rows = [("events", list(zip(labels, map(_base64, shown["frames"]), strict=True)))]
    for layer in shown["layers"]:
        heading = f"{layer['name']}: mean of {layer['channels']} channels, at most {layer['most']:.3g}"
        rows.append((heading, list(zip(labels, map(_base64, layer["pictures"]), strict=True))))
    return draw_frames(rows, height / width, "Events and spikes of the first layers")


def _cloud(shown: Mapping[str, Any]) -> str:
    step, p, y, x = np.array(shown["points"], np.int64).T
    T = shown["T"]
    chosen = sorted({round(k * (T - 1) / 4) for k in range(5)})
    return draw_cloud(
        (step + 0.5) / T,
        x,
        y,
        p,
        sensor=tuple(shown["sensor"]),
        ticks=[((t + 0.5) / T, str(t + 1)) for t in chosen],
        title="Events over time",
        time="time step",
    )

"""Frames of events as pictures: PNG on a white ground, which a dark page turns round, and GIF that moves."""

import base64
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from isospike.events.recording import Events

DARKER, BRIGHTER, SPIKES = (0, 114, 178), (213, 94, 0), (0, 158, 115)  # blue, vermilion and green of Okabe and Ito
FAINT, FULL = 90, 255  # opacity of one event where others have many, and of many
SHADES = 3  # of each colour in a GIF
SHOWN_MS, FILM_MS = 100, 1_600  # a frame of a film, and the least for all of them
STRONG = 0.95  # share of the cells with events that are not yet drawn in full

Picture = npt.NDArray[np.uint8]


def strong_count(frames: npt.NDArray[np.integer]) -> int:
    """Return the count of a cell from which on it is drawn in full, alike for all frames ``[..., 2, H, W]``."""
    counts = frames[frames > 0]
    return max(1, round(float(np.quantile(counts, STRONG)))) if counts.size else 1


def coloured(frame: npt.NDArray[np.integer], strong: int) -> Picture:
    """Colour counts by the polarity that a pixel has more of; the more events, the less transparent.

    Args:
        frame: Counts ``[2, H, W]``.
        strong: As of ``strong_count``.

    Returns:
        RGBA, uint8 ``[H, W, 4]``.
    """
    darker, brighter = frame.astype(np.int64)
    total = darker + brighter
    picture = np.zeros((*total.shape, 4), np.uint8)
    picture[..., :3] = np.where((brighter >= darker)[..., None], BRIGHTER, DARKER)
    share = np.minimum(total / strong, 1.0)
    picture[..., 3] = np.where(total > 0, np.rint(FAINT + (FULL - FAINT) * share), 0)
    return picture


def heat(counts: npt.NDArray[np.integer]) -> Picture:
    """Draw how many events each pixel ``[H, W]`` has in grey, the less transparent the more, by their logarithm."""
    share = np.log1p(counts) / np.log1p(max(1, int(counts.max(initial=0))))
    picture = np.full((*counts.shape, 4), 128, np.uint8)
    picture[..., 3] = np.rint(FULL * share)
    return picture


def shares(values: npt.NDArray[np.floating], colour: tuple[int, int, int]) -> Picture:
    """Return a colour that is as opaque as a share ``[H, W]`` from 0 to 1 is large."""
    picture = np.zeros((*values.shape, 4), np.uint8)
    picture[..., :3], picture[..., 3] = colour, np.rint(FULL * values)
    return picture


def png(picture: Picture) -> str:
    """Encode RGBA in front of white as PNG, in base64; what draws SVG to files has no way with opacity in a PNG."""
    opacity = picture[..., 3:] / FULL
    flat = np.rint(255 + (picture[..., :3] - 255.0) * opacity).astype(np.uint8)
    return _encoded([Image.fromarray(flat)], "PNG", optimize=True)


def gif(frames: npt.NDArray[np.integer], strong: int, milliseconds: int) -> str:
    """Encode frames ``[T, 2, H, W]`` as a GIF that goes round for ever, in base64.

    Args:
        frames: Counts.
        strong: As of ``strong_count``.
        milliseconds: How long each is shown, from 20 on; a hundredth of a second is the least difference.
    """
    palette = [255, 255, 255]
    for colour in (DARKER, BRIGHTER):
        for strength in range(1, SHADES + 1):
            palette += [round(255 + (c - 255) * (0.4 + 0.6 * strength / SHADES)) for c in colour]
    images = []
    for frame in frames:
        picture = coloured(frame, strong)
        shade = np.ceil((picture[..., 3].astype(np.int64) - FAINT) / (FULL - FAINT) * SHADES).clip(1, SHADES)
        brighter = (picture[..., 0] == BRIGHTER[0]) * SHADES
        image = Image.fromarray(np.where(picture[..., 3] > 0, shade + brighter, 0).astype(np.uint8), "P")
        image.putpalette(palette)
        images.append(image)
    return _encoded(images, "GIF", transparency=0, disposal=2, loop=0, duration=milliseconds, optimize=False)


def film(moving: npt.NDArray[np.integer], whole: npt.NDArray[np.integer]) -> dict[str, Any]:
    """Encode frames ``[T, 2, H, W]`` that move, and all events in one ``[2, H, W]``, in colour and by their number."""
    total = whole.sum(0)
    return {
        "moving": gif(moving, strong_count(moving), max(SHOWN_MS, FILM_MS // len(moving))),
        "whole": png(coloured(whole, strong_count(whole))),
        "heat": png(heat(total)),
        "most": int(total.max(initial=0)),
    }


def _encoded(images: Sequence[Image.Image], kind: str, **options: object) -> str:
    file = io.BytesIO()
    more = {"save_all": True, "append_images": images[1:]} if kind == "GIF" else {}
    images[0].save(file, kind, **more, **options)
    return base64.b64encode(file.getvalue()).decode()


def reduced(events: Events, most: int) -> Events:
    """Return the events on a sensor of at most so many pixels a side, several pixels taken together."""
    width, height = events.sensor or (1, 1)
    factor = -(-max(width, height) // most)
    if factor == 1:
        return events
    return Events(
        events.t, events.x // factor, events.y // factor, events.p, (-(-width // factor), -(-height // factor))
    )

"""The page of a recording: its numbers, frames that move and stand still, a cloud of its events, their rates."""

from html import escape

import numpy as np

from isospike.drawing import draw_cloud, draw_frames
from isospike.events import Events, integrate
from isospike.events.frames import Frames
from isospike.events.pictures import SHOWN_MS, coloured, film, png, reduced, strong_count
from isospike.events.summary import RecordingSummary, from_above, on_some_sensor, summarise
from isospike.report.charts import Point, line_chart
from isospike.report.sections.base import Chart, Section
from isospike.report.sections.recording import COLOURS, film_html

MOST_PIXELS = 160  # to a side of a picture; larger sensors are drawn with several pixels taken together
STILLS, MOVING = 14, 40  # frames
MOST_POINTS = 4_000  # of the cloud
MOST_RATES = 200  # points of the lines


def recording_sections(events: Events) -> list[Section]:
    """Make the sections of a page, whose size does not grow with the recording.

    Raises:
        DataError: there are no events.
    """
    summary = summarise(events)
    events = from_above(on_some_sensor(events))
    small = reduced(events, MOST_PIXELS)
    return [_numbers(summary), _frames(small, summary), _cloud(events), _rates(events)]


def in_words(summary: RecordingSummary) -> list[str]:
    """Return sentences for the console."""
    width, height = summary.sensor
    size = f"{width}x{height} pixels" + ("" if summary.sensor_said else " or more, which nobody says,")
    x, y, most = summary.busiest
    seconds = f"{summary.duration_us / 1e6:,.6g} s"
    return [
        f"{summary.events:,} events of {size} in {seconds}, {summary.events_per_s:,.0f} per second",
        f"{summary.brighter:.1%} became brighter; {summary.events_per_pixel:.3g} events per pixel; "
        f"{summary.silent:.1%} of the pixels have none; x={x}, y={y} has most, {most:,}",
    ]


def _numbers(summary: RecordingSummary) -> Section:
    width, height = summary.sensor
    x, y, most = summary.busiest
    figures = {
        "events": f"{summary.events:,}",
        "seconds": f"{summary.duration_us / 1e6:,.6g}",
        "events per second": f"{summary.events_per_s:,.0f}",
        "sensor" if summary.sensor_said else "reached; the sensor is not said": f"{width} x {height}",
        "became brighter": f"{summary.brighter:.1%}",
        "events per pixel": f"{summary.events_per_pixel:.3g}",
        "pixels without events": f"{summary.silent:.1%}",
        f"events of the busiest pixel, x {x}, y {y}": f"{most:,}",
    }
    cards = "".join(
        f'<div class="figure"><b>{escape(value)}</b><span>{escape(name)}</span></div>'
        for name, value in figures.items()
    )
    return Section("Recording", f'<div class="figures">{cards}</div>')


def _frames(events: Events, summary: RecordingSummary) -> Section:
    """Show pictures that move, all events at once, and rows of stills."""
    moving = _cut(events, MOVING)
    whole = integrate(events, np.array([[0, len(events)]]))[0]
    html = film_html(film(moving, whole), f"{COLOURS}. {_speed(summary)}")
    stills, edges = _cut(events, STILLS), _edges(events, STILLS)
    scale, unit = time_unit(summary.duration_us)
    strong = strong_count(stills)
    labels = [f"{digits((start - edges[0]) / scale)} {unit}" for start in edges[:-1]]
    drawn = [(label, png(coloured(frame, strong))) for label, frame in zip(labels, stills, strict=True)]
    height, width = stills.shape[-2:]
    return Section("Frames", html, pictures={"frames": draw_frames([("", drawn)], height / width, "Frames")})


def _speed(summary: RecordingSummary) -> str:
    seconds = summary.duration_us / 1e6
    shown = MOVING * SHOWN_MS / 1e3
    if not seconds:
        return ""
    factor = f"{shown / seconds:,.3g} times slower" if seconds < shown else f"{seconds / shown:,.3g} times faster"
    return f"Shown in {shown:g} s, {factor} than it was."


def _edges(events: Events, number: int) -> list[int]:
    """Return microseconds that cut a recording into parts of one length; the last part has its last event too."""
    return np.linspace(int(events.t[0]), int(events.t[-1]) + 1, number + 1).astype(np.int64).tolist()


def _cut(events: Events, number: int) -> Frames:
    bounds = np.searchsorted(events.t, _edges(events, number))
    return integrate(events, np.stack([bounds[:-1], bounds[1:]], axis=1))


def time_unit(duration_us: int) -> tuple[int, str]:
    """Return the microseconds of a unit in which a duration has a few digits, and its name."""
    name = "s" if duration_us >= 20_000_000 else "ms" if duration_us >= 20_000 else "us"
    return {"s": 1_000_000, "us": 1}.get(name, 1_000), name


def digits(value: float) -> str:
    """Write a number with about four digits, and never with an exponent."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


def _cloud(events: Events) -> Section:
    chosen = events[np.unique(np.linspace(0, len(events) - 1, MOST_POINTS).astype(np.int64))]
    duration = max(1, events.duration)
    scale, unit = time_unit(duration)
    picture = draw_cloud(
        (chosen.t - events.t[0]) / duration,
        chosen.x,
        chosen.y,
        chosen.p,
        sensor=events.sensor or (1, 1),
        ticks=[(at, digits(at * duration / scale)) for at in (0, 0.25, 0.5, 0.75, 1)],
        title="Events over time",
        time=f"{unit} since the first event",
    )
    some = "all events" if len(chosen) == len(events) else f"{len(chosen):,} of {len(events):,} events, evenly drawn"
    return Section("Events over time", f"<p>{COLOURS}; {some}.</p>", pictures={"cloud": picture})


def _rates(events: Events) -> Section:
    """Draw how many events there are per second, by polarity, as lines."""
    number = min(MOST_RATES, max(1, events.duration))
    edges = np.linspace(int(events.t[0]), int(events.t[-1]) + 1, number + 1)
    width, (scale, unit) = (edges[1] - edges[0]) / 1e6, time_unit(events.duration)
    points: list[Point] = []
    for polarity, name in enumerate(("darker", "brighter")):
        counts, _ = np.histogram(events.t[events.p == polarity], edges)
        points += [
            {"x": round(float(at - edges[0]) / scale, 4), "value": round(count / width, 1), "series": name}
            for at, count in zip(edges[:-1].tolist(), counts.tolist(), strict=True)
        ]
    spec = line_chart(points, x=f"{unit} since the first event", y="events per second", title="Rate", from_zero=True)
    caption = f"Events per second in {number:,} parts of {digits(width * 1e6 / scale)} {unit}, at the start of each."
    return Section("Rates", charts=(Chart(spec, caption),))

"""``isospike predict --stream``: events in as they arrive, one line per decision."""

import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from isospike.cli.console import err, out
from isospike.data.recordings import EventData, FrameData
from isospike.errors import ConfigError, DataError
from isospike.events import Events, read, read_pieces
from isospike.events.recording import read_sensor
from isospike.predictor import Prediction, trained_network
from isospike.processes import open_world
from isospike.recording_predictor import RecordingPredictor
from isospike.run_folder import RunFolder
from isospike.streaming import Stream, StreamDecision

TOP = 5  # classes of a line of JSON


@dataclass(frozen=True)
class StreamOptions:
    """The options of ``isospike predict`` that are of events alone; None, or 0, where they are not given."""

    window: int | None = None
    count: int | None = None
    restart: int | None = None
    late: int = 0
    sensor: str | None = None
    format: str | None = None

    def refuse(self) -> None:
        """Refuse them all beside images.

        Raises:
            ConfigError: one of them is given.
        """
        for name, value in vars(self).items():
            if value:
                raise ConfigError(f"--{name} is of events: name them with --stream, in place of images")

    def refuse_but_of_files(self) -> None:
        """Refuse those that are of streams alone.

        Raises:
            ConfigError: one of them is given.
        """
        for name in ("window", "count", "restart", "late"):
            if getattr(self, name):
                raise ConfigError(f"--{name} is of a stream: name the recording with --stream")


def predict_stream(
    run: Path, source: str, options: StreamOptions, *, checkpoint: str, device: str, as_json: bool
) -> None:
    """Say what a network decides after every window of a recording, and at the end how long it took.

    Args:
        run: As of ``isospike predict``.
        source: A file, or "-" for standard input.
        options: What was asked for.
        checkpoint: As of ``isospike predict``.
        device: Likewise.
        as_json: A JSON object per line.

    Raises:
        IsospikeError: whatever is wrong with the run, the options or the events.
    """
    window, count = _windows(run, options)
    sensor = None if options.sensor is None else read_sensor(options.sensor, "--sensor")
    with open_world(device) as world:
        model = trained_network(run, checkpoint).to(world.device)
        stream = Stream(model, window=window, count=count, restart=options.restart, sensor=sensor, compiled=True)
        summary = _Summary(f"{count:,} events" if window is None else f"{window:,} us")
        try:
            for decision in stream.run(summary.counted(_parts(source, options, sensor))):
                summary.add(decision)
                _say(decision, as_json)
        except KeyboardInterrupt:  # as a stream that never ends is ended
            summary.say()
            raise
        summary.say()


def data_of_recordings(run: Path) -> FrameData | None:
    """Return what cut the recordings that a run was trained on; None where it was trained on images."""
    folder = RunFolder(run)
    data = folder.read_config().data if folder.config.is_file() else None
    return data if isinstance(data, FrameData) else None


def predict_recordings(
    run: Path, data: FrameData, files: list[Path], options: StreamOptions, *, checkpoint: str, device: str
) -> Prediction:
    """Tell the classes of whole recordings, which ``data`` cuts as those of the run's test.

    Args:
        run: As of ``isospike predict``.
        data: As of ``data_of_recordings``.
        files: In any format.
        options: Of which ``sensor`` and ``format`` are of files.
        checkpoint: As of ``isospike predict``.
        device: Likewise.

    Raises:
        IsospikeError: whatever is wrong with the run, the options or the events.
    """
    options.refuse_but_of_files()
    sensor = None if options.sensor is None else read_sensor(options.sensor, "--sensor")
    recordings = [
        (str(file), _on_sensor(read(file, format=options.format, sensor=sensor, sort=True), file, data))
        for file in files
    ]
    with open_world(device) as world:
        return RecordingPredictor(trained_network(run, checkpoint).to(world.device), data)(recordings)


def _on_sensor(events: Events, file: Path, data: FrameData) -> Events:
    """Return the events on their sensor: where the file does not say it, that of the training's recordings."""
    if events.sensor is not None:
        return events
    if not isinstance(data, EventData):
        raise DataError(f"{file} does not say the size of the sensor: name it with --sensor WIDTHxHEIGHT")
    try:
        return events.on(data.sensor)
    except DataError as error:
        raise DataError(f"{file}: {error}; its sensor is named with --sensor WIDTHxHEIGHT") from error


def _windows(run: Path, options: StreamOptions) -> tuple[int | None, int | None]:
    """Return microseconds, or else events, of a window: those asked for, or those of the run's training.

    Raises:
        ConfigError: both are asked for, or none, and the training had no windows that follow each other.
    """
    data = data_of_recordings(run)
    asked = (options.window, options.count) != (None, None)
    if not asked and data is not None and data.window is not None and data.stride in (None, data.window):
        return (data.window, None) if data.bins == "time" else (None, data.window)
    if (options.window is None) == (options.count is None):
        raise ConfigError("events are cut by time or by number: give one of --window MICROSECONDS and --count EVENTS")
    return options.window, options.count


def _parts(source: str, options: StreamOptions, sensor: tuple[int, int] | None) -> Iterator[Events]:
    """Yield the recording part by part; its sensor must be known once there are events."""
    name = "standard input" if source == "-" else source
    file = sys.stdin.buffer if source == "-" else Path(source)
    for events in read_pieces(file, format=options.format, sensor=sensor, late=options.late, where=name):
        if len(events) and events.sensor is None:
            raise DataError(f"{name} does not say the size of the sensor: name it with --sensor WIDTHxHEIGHT")
        yield events


def _say(decision: StreamDecision, as_json: bool) -> None:
    shares, latency = decision.probabilities, decision.seconds * 1e3
    if as_json:
        best = shares.topk(min(TOP, len(shares)))
        top = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        line: dict[str, Any] = {"window": decision.number, "start_us": decision.start, "end_us": decision.end}
        line |= {"events": decision.events, "steps": decision.steps, "latency_ms": round(latency, 3)}
        line["predictions"] = [{"class": decision.classes[index], "probability": share} for index, share in top]
        typer.echo(json.dumps(line))
        return
    end = (decision.end or 0) / 1e6
    text = (
        f"{end:12.6f} s  {float(shares.max()):6.1%}  {decision.label}  ({decision.events:,} events, {latency:.1f} ms)"
    )
    out.print(text, markup=False, highlight=False, soft_wrap=True)


class _Summary:
    """What is said once the events are over: sums, so that it does not grow with them."""

    def __init__(self, size: str) -> None:
        self.size = size  # of a window
        self.windows = self.given = self.decided = 0
        self.seconds = self.longest = 0.0

    def counted(self, parts: Iterable[Events]) -> Iterator[Events]:
        """Yield the parts, and count their events."""
        for events in parts:
            self.given += len(events)
            yield events

    def add(self, decision: StreamDecision) -> None:
        """Take a decision."""
        self.windows, self.decided = self.windows + 1, self.decided + decision.events
        self.seconds, self.longest = self.seconds + decision.seconds, max(self.longest, decision.seconds)

    def say(self) -> None:
        """Say how many windows there were, how long they took and what was left over."""
        text = f"{self.windows:,} windows of {self.size}"
        if self.windows:
            mean, longest = self.seconds / self.windows * 1e3, self.longest * 1e3
            text += f"; a decision took {mean:.1f} ms on average and {longest:.1f} ms at most"
        left = self.given - self.decided
        text += f"; the last {left:,} events filled no window" if left else ""
        err.print(f"note: {text}", markup=False, highlight=False, soft_wrap=True)

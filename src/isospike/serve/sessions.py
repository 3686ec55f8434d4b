"""What one stream of a client keeps: messages in, decisions out."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from isospike.data.images import read_image
from isospike.errors import ConfigError, DataError
from isospike.events.recording import read_sensor
from isospike.models import SpikingNetwork
from isospike.predictor import Predictor
from isospike.streaming import Stream, StreamDecision

# An event of a binary message: 13 bytes, little-endian, nothing between the fields.
EVENT = np.dtype([("t", "<i8"), ("x", "<u2"), ("y", "<u2"), ("p", "u1")])
END = "end"  # the text message that ends a recording
TOP = 5  # classes of a decision


class EventSession:
    """Events of one client to decisions, as ``isospike predict --stream`` makes them.

    Args:
        model: Trained on recordings.
        options: ``window`` or ``count``, ``sensor`` as WIDTHxHEIGHT, ``late`` and ``restart``, as text.

    Raises:
        ConfigError: an option is unknown, is missing, or cannot be read.
        DataError: an option is out of its range.
    """

    def __init__(self, model: SpikingNetwork, options: Mapping[str, str]) -> None:
        _check_names(options, ("window", "count", "sensor", "late", "restart"))
        numbers: dict[str, Any] = {key: _number(key, text) for key, text in options.items() if key != "sensor"}
        if "sensor" not in options:
            raise ConfigError("the size of the sensor is missing: open the stream with ?sensor=WIDTHxHEIGHT")
        self._stream = Stream(model, sensor=read_sensor(options["sensor"], "sensor"), **numbers)

    def __call__(self, message: str | bytes) -> Iterator[dict[str, Any]]:
        """Yield the decisions after a message: events in binary (``EVENT``) or in JSON, or the text "end".

        Raises:
            DataError: it is neither, or an event cannot be one; nothing of the message is taken then.
        """
        if isinstance(message, str) and message.strip() == END:
            decisions = self._stream.end()
        else:
            decisions = self._stream(_events(message))
        for decision in decisions:
            yield _decision(decision)


class FrameSession:
    """Images of one client, one for each time step, to decisions whose potentials carry on.

    Args:
        predictor: Prepares the images.
        options: None are known.
    """

    def __init__(self, predictor: Predictor, options: Mapping[str, str]) -> None:
        _check_names(options, ())
        if predictor.model.knows_steps:
            raise ConfigError(f"the norms of this network know {predictor.model.T} time steps, and a stream has no end")
        self._predictor = predictor
        self._rest()

    def _rest(self) -> None:
        self._state: Mapping[str, Tensor] | None = None
        self._steps, self._total = 0, torch.zeros(len(self._predictor.classes), dtype=torch.float64)

    @torch.no_grad()
    def __call__(self, message: str | bytes) -> Iterator[dict[str, Any]]:
        """Yield the decision after a frame, the content of an image file; the text "end" begins anew, from rest.

        Raises:
            DataError: it is no image.
        """
        if isinstance(message, str):
            if message.strip() != END:
                raise DataError(f"a frame is the content of an image file in a binary message; text is '{END}' alone")
            self._rest()
            return
        image = read_image(message, f"frame {self._steps}", self._predictor.inputs.channels)
        logits, self._state = self._predictor.model.step(self._predictor.prepare([image]), self._state)
        self._steps, self._total = self._steps + 1, self._total + logits[0].double().cpu()
        shares = (self._total / self._steps).softmax(-1)
        yield {"steps": self._steps, "predictions": ranked(shares, self._predictor.classes)}


def ranked(shares: Tensor, classes: tuple[str, ...]) -> list[dict[str, Any]]:
    """Return the likeliest classes with their probabilities, for JSON."""
    best = shares.topk(min(TOP, len(shares)))
    pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    return [{"class": classes[index], "probability": share} for index, share in pairs]


def _decision(decision: StreamDecision) -> dict[str, Any]:
    return {
        "window": decision.number,
        "start_us": decision.start,
        "end_us": decision.end,
        "events": decision.events,
        "steps": decision.steps,
        "latency_ms": round(decision.seconds * 1e3, 3),
        "predictions": ranked(decision.probabilities, decision.classes),
    }


def _events(message: str | bytes) -> tuple[Any, Any, Any, Any]:
    if isinstance(message, bytes):
        if len(message) % EVENT.itemsize:
            raise DataError(f"a binary message is of {EVENT.itemsize} bytes an event, and this has {len(message)}")
        found = np.frombuffer(message, EVENT)
        return tuple(found[name].astype(np.int64) for name in "txyp")  # type: ignore[return-value]
    try:
        values = json.loads(message)
        columns = tuple(np.asarray(values[name]) for name in "txyp")
        if any(column.ndim != 1 for column in columns):
            raise ValueError("a number is no list of numbers")
        return columns  # type: ignore[return-value]
    except (ValueError, LookupError, TypeError, RecursionError, OverflowError) as error:
        raise DataError('a text message is {"t": [...], "x": [...], "y": [...], "p": [...]}, or "end"') from error


def _check_names(options: Mapping[str, str], known: tuple[str, ...]) -> None:
    for name in options:
        if name not in known:
            raise ConfigError(f"unknown option '{name[:40]}' of a stream; known: {', '.join(known) or 'none'}")


def _number(key: str, text: str) -> int:
    if not re.fullmatch(r"\d{1,12}", text):
        raise ConfigError(f"{key} is a whole number, got '{text[:40]}'")
    return int(text)

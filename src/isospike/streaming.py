"""Decisions about events as they arrive, in the time of one window and in memory that does not grow."""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import Tensor

from isospike.data import Augment, AugmentSpec
from isospike.data.recordings import POLARITIES, on_square
from isospike.errors import ConfigError, DataError
from isospike.events import Decoded, Events
from isospike.events.order import InOrder
from isospike.events.recording import checked_sensor
from isospike.events.windows import CountWindows, TimeWindows, Window, Windows
from isospike.inputs import Inputs
from isospike.models import SpikingNetwork
from isospike.predictor import checked_inputs, class_names


@dataclass(frozen=True)
class StreamDecision:
    """What a network says once a window is over.

    Args:
        number: Of the window, from 0 on.
        start: Its first microsecond; None where a frame was given.
        end: The microsecond behind its last; of windows by count, behind their last event.
        events: How many are in it.
        steps: Windows that the decision rests on, up to this one.
        step_logits: What the network said at this window, float32 ``[classes]``.
        logits: The mean of that over ``steps`` windows, taken in float64.
        classes: Names of the columns.
        seconds: How long frame and network took.
    """

    number: int
    start: int | None
    end: int | None
    events: int
    steps: int
    step_logits: Tensor
    logits: Tensor
    classes: tuple[str, ...]
    seconds: float

    @property
    def probabilities(self) -> Tensor:
        """Shares of the classes, ``[classes]``, with the sum 1."""
        return self.logits.softmax(-1)

    @property
    def label(self) -> str:
        """The likeliest class."""
        return self.classes[int(self.logits.argmax())]


class Stream:
    """Events that arrive in parts of any size to one decision after every window.

    The frame of a window is counted, scaled and normalised as those of the training were, and goes through the network
    as one time step, whose potentials carry on. So decisions are those of ``net(frames)`` on the frames of the whole
    recording, whatever the parts: ``step_logits`` bit for bit. Kept are one frame, the potentials and the sum of the
    logits, however long the recording is; of events only those that ``late`` holds back.

    A decision comes one window and ``late`` microseconds after the first event of its window at the latest, plus
    ``StreamDecision.seconds``, if events go on or ``until`` says that time does. Decisions are made when they are asked
    for; those that nobody has taken come before those of the next call.

    Args:
        model: A network that was trained on recordings; it is put into eval mode.
        window: Microseconds of a window. A window without events is a step too.
        count: Events of a window, in place of ``window``.
        sensor: Width and height of the events; None: as each part says.
        late: By how many microseconds an event may lie before the latest one that came earlier.
        restart: Windows after which potentials and mean begin anew, as for a new recording; None: never.
        inputs: What the network reads. None: what the model says, as that of a run or of ``from_pretrained`` does.
        compiled: Whether the network is compiled for inference, which is faster on a CPU and rounds otherwise.

    Raises:
        ConfigError: not one of ``window`` and ``count``, nothing is known of the inputs, they are no recordings or do
            not fit the model, or its norms know fewer steps than there would be.
        DataError: ``window``, ``count``, ``late`` or ``sensor`` is out of its range.
    """

    def __init__(
        self,
        model: SpikingNetwork,
        *,
        window: int | None = None,
        count: int | None = None,
        sensor: tuple[int, int] | None = None,
        late: int = 0,
        restart: int | None = None,
        inputs: Inputs | None = None,
        compiled: bool = False,
    ) -> None:
        self.inputs = checked_recordings(inputs, model)
        self.classes = class_names(self.inputs, model)
        _check_restart(restart, model)
        self.restart, self.late = restart, late
        self.sensor: tuple[int, int] | None = None
        if sensor is not None:
            self.sensor = self._checked(checked_sensor(sensor))
        self._cut = _windows(window, count)
        self._order = InOrder(late, "the stream")
        self._net: _Stepwise | _CompiledStepwise = (_CompiledStepwise if compiled else _Stepwise)(model.eval())
        self._device = next(model.parameters()).device
        self._augment = Augment(AugmentSpec(), self.inputs.mean, self.inputs.std, len(self.classes))
        self._queue: deque[Iterator[Window]] = deque()
        self._begin()

    def _begin(self) -> None:
        self.windows = 0  # decisions so far
        self._rest()

    def _rest(self) -> None:
        self._net.rest()
        self._steps, self._total = 0, torch.zeros(len(self.classes), dtype=torch.float64)

    @property
    def pending(self) -> int:
        """How many events no decision rests on yet: of the window that is not over, and those that are held back."""
        return self._cut.events + len(self._order)

    def __call__(self, events: Events | tuple[Any, Any, Any, Any]) -> Iterator[StreamDecision]:
        """Take the next events.

        Args:
            events: A part of a recording, or its arrays ``(t, x, y, p)``, which need not be in order of time.

        Returns:
            The decisions of all windows that are over now.

        Raises:
            DataError: an event cannot be one or is too late, the sensor is unknown, another than before or smaller than
                the frames of the network. Nothing of these events is taken then.
        """
        decoded = _decoded(events)
        sensor = decoded.sensor or self.sensor
        if sensor is None:
            raise DataError("these events do not say the size of the sensor: name it with sensor=(width, height)")
        sensor = self._checked(sensor)
        given = self._order.add(decoded, sensor)
        self.sensor = sensor
        return self._after(given)

    def frames(self, counts: Any) -> Iterator[StreamDecision]:
        """Take frames that something else has counted, each of them a window.

        Args:
            counts: Whole numbers ``[2, size, size]`` or ``[T, 2, size, size]``, as of ``iso.events.integrate``.

        Returns:
            Their decisions.

        Raises:
            DataError: they are of another shape or kind, or an event stream is in the midst of a window.
        """
        size, array = self.inputs.size, np.asarray(counts)
        array = array[None] if array.ndim == 3 else array
        if array.dtype.kind not in "iu" or array.ndim != 4 or array.shape[1:] != (POLARITIES, size, size):
            raise DataError(
                f"frames are whole numbers of shape [2, {size}, {size}] or [T, 2, {size}, {size}], "
                f"got {array.dtype} of {list(np.shape(counts))}"
            )
        return self._decided(self._given(array))

    def until(self, t: int) -> Iterator[StreamDecision]:
        """Say that no event before the microsecond ``t`` will come, so that a quiet sensor delays nothing.

        Returns:
            The decisions of all windows that are over now; none before the first event.
        """
        given = self._after(self._order.until(t))
        self._queue.append(self._cut.until(t))
        return given

    def end(self) -> Iterator[StreamDecision]:
        """Say that the recording is over. The next events begin a new one, from rest.

        Returns:
            The last decisions. A window that is not full has none, as no window of ``iso.events.windows_of_time`` is.
        """
        rest = self._after(self._order.end())
        self._order = InOrder(self.late, "the stream")
        self._queue += [self._cut.end(), self._ended()]
        return rest

    def run(self, parts: Iterable[Events | tuple[Any, Any, Any, Any]]) -> Iterator[StreamDecision]:
        """Yield all decisions of a recording that comes in parts, such as those of ``iso.events.read_pieces``."""
        for part in parts:
            yield from self(part)
        yield from self.end()

    def _ended(self) -> Iterator[Window]:
        """Yield no window, and begin anew once those in front of it have been taken."""
        self._begin()
        yield from ()

    def _given(self, frames: np.ndarray[Any, Any]) -> Iterator[Window]:
        if self.pending:
            raise DataError(f"{self.pending:,} events are in a window that is not over: call end() before frames")
        for frame in frames:
            yield Window(frame.astype(np.int32), int(frame.sum()))

    def _checked(self, sensor: tuple[int, int]) -> tuple[int, int]:
        if self.sensor is not None and sensor != self.sensor:
            raise DataError(f"these events are of a sensor of {sensor}, not of {self.sensor} (width, height)")
        if max(sensor) < self.inputs.size:
            raise DataError(
                f"a sensor of {sensor[0]}x{sensor[1]} pixels is smaller than the frames of this network, "
                f"{self.inputs.size}x{self.inputs.size}: it was trained on events of a larger one"
            )
        return sensor

    def _after(self, events: Events) -> Iterator[StreamDecision]:
        """Return the decisions of the windows that events in order of time fill."""
        square = on_square(events, self.inputs.size) if len(events) else events
        return self._decided(self._cut.add(square))

    def _decided(self, windows: Iterator[Window]) -> Iterator[StreamDecision]:
        self._queue.append(windows)
        return self._taken()

    def _taken(self) -> Iterator[StreamDecision]:
        while self._queue:
            for window in self._queue[0]:
                yield self._decide(window)
            self._queue.popleft()

    def _decide(self, window: Window) -> StreamDecision:
        began = perf_counter()
        if self._steps == self.restart:
            self._rest()
        frame = torch.from_numpy(window.frame).to(self._device)
        logits = self._net(self._augment.test(frame)[None], self._steps)[0].float().cpu()
        self._steps, self._total = self._steps + 1, self._total + logits.double()
        mean = (self._total / self._steps).float()
        self.windows += 1
        return StreamDecision(
            self.windows - 1, window.start, window.end, window.events, self._steps, logits, mean, self.classes,
            perf_counter() - began,
        )  # fmt: skip


class _Stepwise:
    """The network itself, window by window."""

    def __init__(self, model: SpikingNetwork) -> None:
        self._model = model
        self._state: Mapping[str, Tensor] | None = None

    def rest(self) -> None:
        self._state = None

    def __call__(self, x: Tensor, step: int) -> Tensor:
        logits, self._state = self._model.step(x, self._state)
        return logits


class _CompiledStepwise:
    """The same, compiled."""

    def __init__(self, model: SpikingNetwork) -> None:
        self._net = model.compile_for_inference()
        self._states: dict[Any, Tensor] = {}

    def rest(self) -> None:
        self._states = {}

    def __call__(self, x: Tensor, step: int) -> Tensor:
        with torch.inference_mode():
            return self._net.step(self._net.begin(x), self._states, step, len(x))


def checked_recordings(inputs: Inputs | None, model: SpikingNetwork) -> Inputs:
    """Return what recordings must be, and refuse a network that was trained on images."""
    inputs = checked_inputs(inputs, model)
    if inputs.T is None:
        raise ConfigError("this model was trained on images, and this reads events: isospike.Predictor reads images")
    if inputs.channels != POLARITIES:
        raise ConfigError(f"frames of events have {POLARITIES} channels, and this model reads {inputs.channels}")
    weight = next(model.parameters())
    model.as_sequence(weight.new_zeros(1, POLARITIES, inputs.size, inputs.size), None)
    return inputs


def _check_restart(restart: int | None, model: SpikingNetwork) -> None:
    if restart is not None and restart < 1:
        raise ConfigError(f"restart is a number of windows from 1 on, got {restart}")
    if model.knows_steps and (restart is None or restart > model.T):
        raise ConfigError(
            f"the norms of this network know {model.T} time steps: begin anew after at most so many windows, "
            f"with restart={model.T}"
        )


def _windows(window: int | None, count: int | None) -> Windows:
    if (window is None) == (count is None):
        raise ConfigError("a stream is cut by time or by count: give one of window=microseconds and count=events")
    return TimeWindows(window) if window is not None else CountWindows(count or 0)


def _decoded(events: Events | tuple[Any, Any, Any, Any]) -> Decoded:
    """Return events or arrays, still unchecked."""
    if isinstance(events, Events):
        return Decoded(events.t, events.x, events.y, events.p, events.sensor)
    if len(events) != 4:
        raise DataError(f"events are the four arrays t, x, y and p, got {len(events)}")
    arrays = [np.asarray(array, np.int64 if len(array) == 0 else None) for array in events]
    shapes = [list(array.shape) for array in arrays]
    if any(array.dtype.kind not in "iub" or array.ndim != 1 or len(array) != len(arrays[0]) for array in arrays):
        kinds = ", ".join(str(array.dtype) for array in arrays)
        raise DataError(f"t, x, y and p are rows of whole numbers of one length, got {kinds} of shapes {shapes}")
    t, x, y, p = arrays
    return Decoded(t, x, y, p)

"""A network and the threads that it runs in, shared by all clients."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from typing import Any, TypeVar

from torch import Tensor

from isospike.data.images import read_image
from isospike.errors import ConfigError, DataError
from isospike.models import SpikingNetwork
from isospike.predictor import Predictor
from isospike.serve.batches import Batches
from isospike.serve.limits import Limits, Rates
from isospike.serve.metrics import Metrics
from isospike.serve.sessions import EventSession, FrameSession, ranked

R = TypeVar("R")
TURN = 8  # decisions of one stream before another has its turn


class Service:
    """Answers for images, and sessions for streams.

    Args:
        model: A trained network that says what its inputs are.
        limits: How much it takes at once.

    Raises:
        ConfigError: nothing is known of the inputs of the network.
        MissingExtra: a package of the extra "serve" is not installed.
    """

    def __init__(self, model: SpikingNetwork, limits: Limits) -> None:
        if model.inputs is None:
            raise ConfigError("this model says nothing of its inputs, so nobody could send it any")
        self.model, self.limits, self.inputs = model.eval(), limits, model.inputs
        self.metrics, self.rates = Metrics(), Rates(limits.rate)
        self.requests = self.streams = 0  # in progress, and open
        self._network = ThreadPoolExecutor(1, "network")  # one batch at a time: its kernels use all cores
        self._decoding = ThreadPoolExecutor(2, "decoding")
        self._predictor = None if self.reads_events else Predictor(model)
        self._batches = Batches(
            self._classify,
            self._network,
            size=limits.batch,
            delay=limits.delay_ms / 1e3,
            seen=self.metrics.batches.observe,
        )

    @property
    def reads_events(self) -> bool:
        """Whether the network was trained on recordings."""
        return self.inputs.T is not None

    def facts(self) -> dict[str, Any]:
        """Return what a client must know, for JSON."""
        return {
            "status": "ok",
            "reads": "events" if self.reads_events else "images",
            "size": self.inputs.size,
            "channels": self.inputs.channels,
            "classes": list(self.inputs.classes),
            "requests": self.requests,
            "streams": self.streams,
        }

    def start(self) -> None:
        """Begin to answer, in the loop that runs."""
        self._batches.start()

    async def stop(self) -> None:
        """Answer no more, and end the threads."""
        await self._batches.stop()
        self._network.shutdown(cancel_futures=True)
        self._decoding.shutdown(cancel_futures=True)

    async def predict(self, body: bytes) -> list[dict[str, Any]]:
        """Return the likeliest classes of the image that ``body`` holds.

        Raises:
            DataError: it holds none.
        """
        prepared = await _in(self._decoding, self._prepared, body)
        return await self._batches(prepared)

    async def session(self, options: Mapping[str, str]) -> "EventSession | FrameSession":
        """Open a stream.

        Raises:
            IsospikeError: of the options of the stream.
        """
        if self._predictor is None:
            return await _in(self._network, EventSession, self.model, options)
        return FrameSession(self._predictor, options)

    async def decide(
        self, session: "EventSession | FrameSession", message: str | bytes, send: Callable[[Any], Any]
    ) -> None:
        """Hand a message to its stream, and send what comes of it, a few decisions at a time.

        Raises:
            DataError: the message cannot be read, or asks for more decisions than one message may.
        """
        decisions, sent = session(message), 0
        while True:
            found = await _in(self._network, lambda: list(islice(decisions, TURN)))
            sent += len(found)
            if sent > self.limits.windows:
                raise DataError(
                    f"a message may end {self.limits.windows} windows, and this ends more: is a time wrong, "
                    "or the window too short?"
                )
            for decision in found:
                await send(decision)
            self.metrics.decisions.inc(len(found))
            if len(found) < TURN:
                return

    def _prepared(self, body: bytes) -> Tensor:
        assert self._predictor is not None, "a network that reads events has no route for images"
        return self._predictor.prepare([read_image(body, "the body of the request", self.inputs.channels)])

    def _classify(self, prepared: Sequence[Tensor]) -> list[list[dict[str, Any]]]:
        assert self._predictor is not None, "as above"
        prediction = self._predictor.classify(prepared)
        return [ranked(shares, prediction.classes) for shares in prediction.probabilities]


async def _in(executor: ThreadPoolExecutor, function: Callable[..., R], *arguments: Any) -> R:
    return await asyncio.get_running_loop().run_in_executor(executor, partial(function, *arguments))

"""What flows through a network in training, every so many steps.

A watched step runs forward once more, by itself: its cost is a question of how often (docs/performance.md), and
training is the same to the last bit whether it is watched or not.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from isospike.analysis import Flow, Watch, watch
from isospike.analysis.instrument import spiking
from isospike.errors import ConfigError
from isospike.layers import statistics_known
from isospike.train.display import Display


class Watching:
    """Watches the first step and every ``every``-th after it.

    Args:
        model: The network that is trained.
        every: In optimiser steps; 0 for never.
        display: Told where there is nothing to watch.
        records: Whether this process keeps what is seen.
    """

    def __init__(self, model: nn.Module, every: int, display: Display, *, records: bool) -> None:
        self.model, self.every, self.display, self.records = model, every, display, records
        self._seen: Watch | None = None
        if every and not any(spiking(model)):
            self.every = 0
            display.say("no neuron of this network spikes, so train.watch_every has nothing to record")

    @torch.no_grad()
    def see(self, step: int, images: Tensor) -> None:
        """Look at the step behind ``step`` others, if it is its turn; every process runs it, as norms may be shared."""
        if not self.every or step % self.every:
            return
        devices = [images.device] if images.is_cuda else []
        with torch.random.fork_rng(devices=devices), statistics_known(), watch(self.model) as seen:
            self.model(images)
        self._seen = seen if self.records else None

    def record(self) -> dict[str, Any] | None:
        """Return what was seen in the last step; None where it was not watched."""
        seen, self._seen = self._seen, None
        if seen is None:
            return None
        try:
            return flow_record(seen.flow())
        except ConfigError as error:  # a stream too large to be summed: training may well go on
            self.display.say(f"this step could not be watched: {error}")
            return None


def flow_record(flow: Flow) -> dict[str, Any]:
    """Make a record of ``flow.jsonl``: means over all, then lists by population and by unit, to four digits.

    Of a population the rate at every time step, of the rest means over time; where neurons have several levels, also
    the share of outputs 0, 1 and so on.
    """
    neurons: dict[str, list[Any]] = {
        "name": [n.name for n in flow.neurons],
        "rate": [_rounded(n.rate) for n in flow.neurons],
        "silent": _rounded(n.silent for n in flow.neurons),
        "saturated": _rounded(n.saturated for n in flow.neurons),
    }
    windows = [
        (n.open, n.dormant, n.dormant_throughout)
        for n in flow.neurons
        if n.open is not None and n.dormant is not None and n.dormant_throughout is not None
    ]
    if len(windows) == len(flow.neurons):
        neurons["open"] = _rounded(_mean(opened) for opened, _, _ in windows)
        neurons["dormant"] = _rounded(_mean(dormant) for _, dormant, _ in windows)
        neurons["dormant_throughout"] = _rounded(throughout for _, _, throughout in windows)
    units: dict[str, list[Any]] = {
        "name": [u.name for u in flow.units],
        "mean": _rounded(_mean(u.mean) for u in flow.units),
        "variance": _rounded(_mean(u.variance) for u in flow.units),
        "largest": _rounded(max(u.largest) for u in flow.units),
    }
    sizes = [n.neurons for n in flow.neurons]
    shares = {key: values for key, values in neurons.items() if key not in ("name", "rate")}
    if any(len(n.histogram) > 2 for n in flow.neurons):
        neurons["histogram"] = [_rounded(n.histogram) for n in flow.neurons]
    shares = {"rate": [n.mean_rate for n in flow.neurons], **shares}
    means = {key: _rounded([_mean(values, sizes)])[0] for key, values in shares.items()}
    return {**means, "neurons": neurons, "units": units}


def _mean(values: Sequence[float], sizes: Sequence[int] | None = None) -> float:
    sizes = sizes or [1] * len(values)
    return sum(value * size for value, size in zip(values, sizes, strict=True)) / sum(sizes)


def _rounded(values: Iterable[float]) -> list[float]:
    return [float(f"{value:.4g}") for value in values]

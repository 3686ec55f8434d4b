"""What flows along the lines of a unit, read from the program of a small network of its row."""

from collections.abc import Iterator
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from isospike.graph import Between, Call, Conv, Value, record, writes
from isospike.layers import Chain, Steps
from isospike.models import SpikingResNet
from isospike.models.bodies import Layout
from isospike.residual import ResidualUnit, Topology

SPIKES = "spikes"  # 0 or 1: a convolution that reads them only adds
COUNTS = "counts"  # integers from 0 on
REAL = "real numbers"
CURRENTS = "currents"
STREAM_CURRENTS = "membrane currents"


class Signals:
    """Tells what flows in a unit behind another one, where the shape stays and where it changes.

    Args:
        topology: The row.
        convs: Convolutions in the branch: 2 in a basic unit, 3 in a bottleneck.
    """

    def __init__(self, topology: Topology, convs: int = 2) -> None:
        with torch.device("meta"):
            layout = Layout("cifar", 4, (2, 2), (4, 8), bottleneck=convs == 3)
            model = SpikingResNet(topology, layout, num_classes=0)
        streams: dict[ResidualUnit, Any] = {}

        def run(x: Tensor, steps: Steps) -> list[Any]:
            x = steps.run(model.opening, model.encode(x, steps))
            for unit, after in chain.from_iterable(stage.maps(steps) for stage in model.stages):  # type: ignore[operator]
                streams[unit] = x
                x = after(x)
            return [x]

        program = record(run, model.in_channels)
        self._writers = {value: op for op in program.operations for value in writes(op)}
        self._read = {op.module: op.x for op in program.operations if isinstance(op, Conv)}
        self._streams = {symbol.value for symbol in streams.values()}
        _, self.staying, self.changing, _ = streams
        self.carried = self._signal(streams[self.staying].value)

    def read_in(self, layers: Chain) -> Iterator[str]:
        """Yield what every convolution in a chain of ``staying`` or ``changing`` reads."""
        return (self._signal(self._read[layer]) for layer in layers.children() if isinstance(layer, nn.Conv2d))

    def _signal(self, value: Value) -> str:
        if value.domain.largest is not None:
            return SPIKES if value.domain.largest == 1 else COUNTS
        if not self._is_current(value):
            return REAL
        while value not in self._streams and isinstance(writer := self._writers[value], Call):
            value = writer.x  # a pool
        return STREAM_CURRENTS if value in self._streams else CURRENTS

    def _is_current(self, value: Value) -> bool:
        """Return whether it comes from a convolution, with no neuron in between."""
        writer = self._writers.get(value)
        if isinstance(writer, Between):
            return writer.neuron is None and any(map(self._is_current, writer.reads()))
        return isinstance(writer, Conv) or (isinstance(writer, Call) and self._is_current(writer.x))


def carried(topology: Topology) -> str:
    """Say what flows from unit to unit."""
    return Signals(topology).carried

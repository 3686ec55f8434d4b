"""Which neurons fire when, of some neurons along depth: the one instrument that keeps spikes, and few of them."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from isospike.analysis.instrument import Instrument
from isospike.seeding import derive_seed


@dataclass(frozen=True)
class PopulationRaster:
    """Spikes of some neurons of one population.

    Args:
        name: Its name in the model.
        levels: The largest count there can be.
        neurons: Their places among the population's, flattened from ``[C, H, W]``.
        counts: What they put out, by time step and neuron.
    """

    name: str
    levels: int
    neurons: tuple[int, ...]
    counts: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Raster:
    """Spikes of one sample.

    Args:
        T: Time steps of the sample.
        steps: Those kept, from the first on.
        of: Populations of the network; of at most so many are kept, evenly along depth, the first and the last too.
        populations: In the order of the network.
    """

    T: int
    steps: int
    of: int
    populations: tuple[PopulationRaster, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return all of it for ``analysis/raster.json``."""
        return asdict(self)


@torch.no_grad()
def record_raster(
    model: nn.Module, x: Tensor, *, populations: int = 40, neurons: int = 24, steps: int = 8, seed: int = 0
) -> Raster:
    """Run one sample and keep the spikes of some neurons, so many at most whatever the network.

    Args:
        model: The network, in the mode it is in.
        x: One image ``[1, C, H, W]`` or clip ``[T, 1, C, H, W]``.
        populations: At most so many of them, evenly along depth.
        neurons: At most so many of each, drawn at random.
        steps: At most so many, from the first on.
        seed: Of the draw.

    Raises:
        ConfigError: the model has no spiking neuron, or the image holds numbers that are not finite.
    """
    with _SpikeRecorder(model) as recorder:
        model(x)
    heard = [name for name in recorder.neurons if name in recorder.outputs]
    chosen = sorted({round(k * (len(heard) - 1) / max(1, populations - 1)) for k in range(populations)})
    T = sum(len(part) for part in recorder.outputs[heard[0]])
    kept = min(T, steps)
    found = []
    for place in chosen:
        spikes = torch.cat(recorder.outputs[heard[place]])[:kept].long().cpu()
        generator = torch.Generator().manual_seed(derive_seed(seed, place))
        drawn = torch.randperm(spikes.shape[1], generator=generator)[:neurons].sort().values
        counts = tuple(tuple(row) for row in spikes[:, drawn].tolist())
        levels = recorder.neurons[heard[place]].levels or 1
        found.append(PopulationRaster(heard[place], levels, tuple(drawn.tolist()), counts))
    return Raster(T, kept, len(heard), tuple(found))


class _SpikeRecorder(Instrument):
    """Keeps what the neurons put out for one sample, one byte each."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self.outputs: dict[str, list[Tensor]] = {}

    def _hooks(self) -> Iterable[RemovableHandle]:
        for name, neuron in self.neurons.items():
            yield neuron.register_forward_hook(lambda _, __, output, name=name: self._keep(name, output[0].abs()))

    def _keep(self, name: str, s: Tensor) -> None:
        self.outputs.setdefault(name, []).append(s[:, 0].flatten(1).byte())

"""One recording beside the spikes of the first layers: pictures for the report, and few of them."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from isospike.analysis.instrument import Instrument
from isospike.events.pictures import SPIKES, coloured, film, png, shares, strong_count

LAYERS, STEPS, POINTS = 3, 7, 4_000  # of neurons, of time steps with a picture of each layer, of the cloud


@torch.no_grad()
def picture_recording(model: nn.Module, counts: Tensor, x: Tensor) -> dict[str, Any]:
    """Run one recording, and make pictures of its events and of what the first layers put out.

    Args:
        model: The network, in the mode it is in.
        counts: Events ``[T, 1, 2, H, W]``, whole numbers.
        x: What the network reads of them, of the same shape.

    Returns:
        Plain values for ``analysis/recording.json``: the size, the steps that are shown, a film and all events in one
        picture, places of some events, and for each step a picture of the events and of each layer, in which a pixel
        is as opaque as its share of the channels that fired, or of their counts, beside the largest one.

    Raises:
        ConfigError: the model has no spiking neuron, or ``x`` holds numbers that are not finite.
    """
    with _FirstLayers(model) as layers:
        model(x)
    frames = counts[:, 0].cpu().numpy()
    T, _, height, width = frames.shape
    steps = sorted({round(k * (T - 1) / max(1, STEPS - 1)) for k in range(STEPS)})
    strong = strong_count(frames)
    return {
        "T": T,
        "sensor": [width, height],
        "steps": [step + 1 for step in steps],
        "film": film(frames, frames.sum(0)),
        "points": _points(frames),
        "frames": [png(coloured(frames[step], strong)) for step in steps],
        "layers": [_layer(name, torch.cat(outputs), steps) for name, outputs in layers.outputs.items()],
    }


def _points(frames: npt.NDArray[np.integer]) -> list[list[int]]:
    """Return step, polarity, row and column of some cells with events, evenly drawn."""
    cells = np.argwhere(frames)
    return cells[np.unique(np.linspace(0, len(cells) - 1, min(POINTS, len(cells))).astype(np.int64))].tolist()


def _layer(name: str, spikes: Tensor, steps: list[int]) -> dict[str, Any]:
    """Return pictures of ``[T, C, H, W]``."""
    mean = spikes.float().mean(1).cpu()
    most = float(mean.max())
    pictures = [png(shares((mean[step] / (most or 1.0)).numpy(), SPIKES)) for step in steps]
    return {"name": name, "channels": spikes.shape[1], "most": most, "pictures": pictures}


class _FirstLayers(Instrument):
    """Keeps what the first layers with maps put out for one sample."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self.outputs: dict[str, list[Tensor]] = {}

    def _hooks(self) -> Iterable[RemovableHandle]:
        for name, neuron in self.neurons.items():
            yield neuron.register_forward_hook(lambda _, __, output, name=name: self._keep(name, output[0]))

    def _keep(self, name: str, s: Tensor) -> None:
        if s.dim() == 5 and (name in self.outputs or len(self.outputs) < LAYERS):
            self.outputs.setdefault(name, []).append(s[:, 0])

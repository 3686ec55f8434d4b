"""The output layer of a converted network that counts spikes."""

import torch
from torch import Tensor

from isospike.neurons import Coefficient, Neuron


class SpikingReadout(Neuron):
    """Integrate-and-fire neurons on logits, whose sum over time is spike counts, ties broken by what is left.

    After t steps the sum of what it has put out is ``count + softmax(potential)``, but for a constant: so the largest
    mean over any number of steps names the class that the source decides for. Threshold 1, reset by subtraction.
    Gradients are those of the sum of the currents: they go straight through the spikes, into the reset too.

    Args:
        start: Potential before the first step.

    Source: Hu et al. 2021 (S-ResNet), arXiv:1805.01352, its released code.
    """

    levels, v_threshold = None, 1.0

    def __init__(self, start: float = 0.5) -> None:
        super().__init__()
        self.start = start

    def forward(self, x: Tensor, v: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map ``[T, B, K]`` to the same shape, and the potential after the last step."""
        v = torch.full_like(x[0], self.start) if v is None else v
        outputs = []
        for x_t in x:
            h = v + x_t
            s = (h >= 1).to(x.dtype) + (h - h.detach())
            after = h - s
            outputs.append(s + after.softmax(-1) - v.softmax(-1))
            v = after
        return torch.stack(outputs), v

    def current_to_fire(self) -> Coefficient:
        """Return 1."""
        return 1.0

    def extra_repr(self) -> str:
        """Return where it starts, for ``print(model)``."""
        return f"start={self.start:g}"

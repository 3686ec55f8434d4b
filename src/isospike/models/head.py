"""From the last feature map to logits, step by step."""

import torch.nn.functional as F
from torch import Tensor, nn

from isospike.layers import GlobalPool, Steps
from isospike.neurons import Neuron


class SampleDropout(nn.Module):
    """Draws dropout once per sample, not once per step, so that it commutes with the mean over time.

    Args:
        share: Share of features left out in training.
    """

    is_leaf = True  # a program calls it: what it does is no arithmetic of maps

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, x: Tensor, steps: Steps) -> Tensor:
        """Map ``[T or 1, B, C]`` to the same shape."""
        if not self.training or not self.share:
            return x
        return x * F.dropout(x.new_ones(1, *x.shape[1:]), self.share)


class Head(nn.Module):
    """Global average pool, dropout, an optional hidden spiking layer, classifier: logits at every step.

    As the classifier does, ``SampleDropout`` commutes with the mean over time: the mean of the logits is the logits of
    the mean rates.

    Args:
        features: Channels of the last map.
        num_classes: Classes; 0 leaves the classifier out and puts out the features that would enter it.
        dropout: Share of pooled features left out in training.
        hidden: Width of the hidden layer, with ``neuron`` behind it.
    """

    def __init__(
        self,
        features: int,
        num_classes: int,
        *,
        dropout: float = 0.0,
        hidden: int | None = None,
        neuron: Neuron | None = None,
    ) -> None:
        super().__init__()
        self.pool = GlobalPool()
        self.dropout = SampleDropout(dropout)
        self.hidden = nn.Linear(features, hidden) if hidden else None
        self.spike = neuron if hidden else None
        self.features = hidden or features
        self.reset(num_classes)

    def reset(self, num_classes: int) -> None:
        """Put in a new classifier."""
        self.fc = nn.Linear(self.features, num_classes) if num_classes else nn.Identity()

    def forward(self, x: Tensor, steps: Steps) -> Tensor:
        """Map ``[T, B, C, H, W]`` to ``[T, B, num_classes]``."""
        x = steps.through(self.pool, x)
        if self.dropout.share:
            x = steps.run(self.dropout, x)
        if self.hidden is not None and self.spike is not None:
            x = steps.through(self.spike, steps.through(self.hidden, x))
        return steps.through(self.fc, x)

"""What a network must have to be compiled; ``SpikingResNet`` has it."""

from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor, nn

from isospike.layers import Chain, Steps


class Network(nn.Module, ABC):
    """A stem, feature maps from its currents, a head.

    Attributes:
        stem: What of a static image is computed once.
        head: Features ``[T, B, C, H, W]`` to logits ``[T, B, K]``: a module called with features and ``Steps``.
        in_channels: Channels of the input.
    """

    stem: Chain
    head: Any
    in_channels: int

    @abstractmethod
    def maps(self, current: Tensor, steps: Steps) -> Tensor:
        """The last feature maps ``[T, B, C, H', W']`` for stem currents ``[T or 1, B, C, H, W]``."""

    @abstractmethod
    def as_sequence(self, x: Tensor, T: int | None) -> tuple[Tensor, int]:
        """``x`` as ``[T or 1, B, C, H, W]``, and the number of steps; what does not fit is refused."""

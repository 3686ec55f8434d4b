"""The interface of a network that can be recorded; ``SpikingResNet`` has it."""

from abc import ABC, abstractmethod

from torch import Tensor, nn

from isospike.layers import Steps


class Network(nn.Module, ABC):
    """A network that maps images to logits through time.

    Attributes:
        in_channels: Channels of the input.
    """

    in_channels: int

    @abstractmethod
    def run(self, x: Tensor, steps: Steps) -> Tensor:
        """Compute logits ``[T or 1, B, K]`` of inputs ``[T or 1, B, C, H, W]``.

        All that is done to a map is arithmetic (``+``, ``*``, ``1 - x``), ``steps.through`` a layer, or ``steps.run``
        of a module that itself runs through time: so the recorder can write it down.
        """

    @abstractmethod
    def as_sequence(self, x: Tensor, T: int | None) -> tuple[Tensor, int]:
        """Return ``x`` as ``[T or 1, B, C, H, W]``, and the number of steps; refuse what does not fit."""

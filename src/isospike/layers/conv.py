"""The convolution of every network."""

from typing import TypeGuard

from torch import Tensor, nn

from isospike.layers.exact import is_exactly
from isospike.ops.conv2d import conv2d, geometry_of


class Conv2d(nn.Conv2d):
    """``nn.Conv2d``, with the gradients that it should have on every machine; see ``isospike.ops.conv2d``."""

    def forward(self, input: Tensor) -> Tensor:
        """Map ``[N, C, H, W]`` to ``[N, C', H', W']``."""
        geometry = geometry_of(self)
        if geometry is None:
            return super().forward(input)
        return conv2d(input, self.weight, self.bias, geometry)


def is_plain_conv(layer: nn.Module) -> TypeGuard[nn.Conv2d]:
    """Return whether this is a convolution and nothing else: a subclass may compute something of its own."""
    return is_exactly(layer, Conv2d) or is_exactly(layer, nn.Conv2d)

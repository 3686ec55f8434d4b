"""A shortcut without weights, for a unit that changes the shape."""

import torch.nn.functional as F
from torch import Tensor, nn


class PaddedShortcut(nn.Module):
    """Puts every ``stride``-th pixel from the first on between channels of zeros.

    Args:
        in_channels: Channels that it reads.
        stride: 1 keeps every pixel.
        before: Channels of zeros before them.
        behind: Channels of zeros behind them.

    Source: He et al. 2016, arXiv:1512.03385, shortcut option A.
    """

    def __init__(self, in_channels: int, stride: int = 1, before: int = 0, behind: int = 0) -> None:
        super().__init__()
        self.in_channels, self.stride, self.before, self.behind = in_channels, stride, before, behind
        self.out_channels = before + in_channels + behind

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[N, C, H, W]`` to ``[N, before + C + behind, H', W']``."""
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.before, self.behind))

    def extra_repr(self) -> str:
        """Return its numbers, for ``print(model)``."""
        return f"{self.in_channels}, {self.out_channels}, stride={self.stride}, before={self.before}"

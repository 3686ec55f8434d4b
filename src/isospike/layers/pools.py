"""The pool before a classifier, and the max-pool of rates."""

import torch.nn.functional as F
from torch import Tensor, nn

from isospike.neurons import Coefficient, Neuron


class GlobalPool(nn.Module):
    """Takes the mean of every map."""

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[N, C, H, W]`` to ``[N, C]``."""
        return x.mean((-2, -1))


class SpikingMaxPool(Neuron):
    """Pools firing rates: what it has put out is at every step the largest sum that a window has taken in.

    It lets a spike through when the largest sum of a window exceeds what was let through before, so it puts out
    spikes where it reads spikes. Its state is the sum of the inputs ``[B, C, H, W]``.

    Args:
        kernel_size: As ``nn.MaxPool2d``, and so are the others.
        stride: Between windows; None: the kernel size.
        padding: On every side.
        dilation: Between the pixels of a window.
        ceil_mode: Whether a window may begin inside and end outside.
        levels: The largest number that it reads at one step: 1 for spikes, more for counts, None for real numbers.
        signed: Whether it also reads negative numbers.

    Source: Hu et al. 2021 (S-ResNet), arXiv:1805.01352, its released code.
    """

    v_threshold = 1.0

    def __init__(
        self,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] | None = None,
        padding: int | tuple[int, int] = 0,
        dilation: int | tuple[int, int] = 1,
        ceil_mode: bool = False,
        levels: int | None = 1,
        signed: bool = False,
    ) -> None:
        super().__init__()
        self.levels, self.signed = levels, signed
        self.kernel_size, self.stride = kernel_size, kernel_size if stride is None else stride
        self.padding, self.dilation, self.ceil_mode = padding, dilation, ceil_mode

    def forward(self, x: Tensor, v: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return spikes ``[T, B, C, H', W']`` of spikes ``[T, B, C, H, W]``, and their sum over all steps so far."""
        sums = x.cumsum(0) if v is None else x.cumsum(0) + v
        largest = self._pool(sums.flatten(0, 1)).unflatten(0, x.shape[:2])
        before = largest.new_zeros(largest.shape[1:]) if v is None else self._pool(v)
        return largest.diff(dim=0, prepend=before.unsqueeze(0)), sums[-1]

    def _pool(self, x: Tensor) -> Tensor:
        return F.max_pool2d(x, self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode)

    def current_to_fire(self) -> Coefficient:
        """Return 1."""
        return 1.0

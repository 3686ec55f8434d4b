"""What stands between two convolutions in training together with the second one, so that spikes need not be floats."""

from torch import Tensor, nn

from isospike.ops.backend import takes
from isospike.ops.cpu import norm_fire_conv as cpu
from isospike.ops.firing import Firing, NormFireConvolved


def norm_fire_conv(
    conv: nn.Conv2d,
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    root_eps: float = 0.0,
    *,
    skip: Tensor | None = None,
    firing: Firing,
    keep: bool = False,
) -> NormFireConvolved | None:
    """``conv(s)`` of the spikes ``s`` of ``norm_fire``, to the same bits as one after the other.

    Args:
        conv: A convolution and nothing else.
        x: ``[T, B, C, H, W]``, at least two values per channel.
        weight: ``[C]``, with every constant factor in it.
        bias: ``[C]``.
        eps: Added to the variance.
        root_eps: Added to its root.
        skip: ``[T or 1, B, C, H, W]``, joins the current.
        firing: The neurons.
        keep: Whether ``u`` is wanted besides.

    Returns:
        ``u``, ``y [T, B, O, H', W']``, mean and variance; None where they run one after the other: elsewhere than on a
        CPU, where spikes are not 0 and 1, and where the library has no convolution of spikes of this shape.
    """
    if not takes("cpu", x) or not cpu.can_run(conv, x, skip, firing):
        return None
    return cpu.norm_fire_conv(conv, x, weight, bias, eps, root_eps, skip=skip, firing=firing, keep=keep)

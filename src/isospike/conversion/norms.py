"""Batch norms of any class as ours."""

from typing import Any

import torch
from torch import Tensor, nn

from isospike.layers import BatchNorm, is_exactly

ROUNDING = 1e-9  # of float64


def is_norm_like(module: Any) -> bool:
    """Return whether it has what a batch norm has: statistics of every channel, or PyTorch's class."""
    statistics = (getattr(module, name, None) for name in ("running_mean", "running_var"))
    return isinstance(module, nn.modules.batchnorm._BatchNorm) or all(
        isinstance(tensor, Tensor) and tensor.dim() == 1 for tensor in statistics
    )


def as_batch_norm(module: Any) -> BatchNorm | None:
    """Return the batch norm that does what ``module`` does in eval mode; None where there is none.

    The class of another library may do more than its statistics say, so its forward is asked.
    """
    if module.running_mean is None or module.running_var is None:
        return None
    norm = BatchNorm(
        len(module.running_mean),
        affine=getattr(module, "weight", None) is not None,
        eps=getattr(module, "eps", 1e-5),
        root_eps=getattr(module, "root_eps", 0.0),
        scale=getattr(module, "scale", 1.0),
        momentum=getattr(module, "momentum", 0.1),
    ).to(module.running_mean)
    with torch.no_grad():
        for name in ("weight", "bias", "running_mean", "running_var"):
            if getattr(module, name, None) is not None:
                getattr(norm, name).copy_(getattr(module, name))
    norm.eval()
    if is_exactly(module, nn.BatchNorm2d) or is_exactly(module, BatchNorm) or _do_the_same(module, norm):
        return norm
    return None


@torch.no_grad()
def _do_the_same(module: nn.Module, norm: BatchNorm) -> bool:
    x = torch.linspace(-3, 3, 2 * norm.num_features * 6).view(2, norm.num_features, 2, 3).to(norm.running_mean)
    try:
        theirs = module.forward(x)
    except (TypeError, ValueError, RuntimeError):
        return False
    ours = norm.forward(x)
    same_shape = isinstance(theirs, Tensor) and theirs.shape == ours.shape
    return same_shape and torch.allclose(theirs, ours, rtol=ROUNDING, atol=ROUNDING * float(ours.abs().max()))

"""Batch normalisation in eager PyTorch: the truth that every faster norm must equal.

    y = weight * (x - mean) / (sqrt(var + eps) + root_eps) + bias

PyTorch computes it. Where a dimension of ``x`` is 1, its stride is first made to tell how the memory lies, because the
backward of ``F.batch_norm`` trusts it (docs/design.md, "PyTorch faults that we step around").
"""

import torch
import torch.nn.functional as F
from torch import Tensor

POSITIVE = 1e-5  # any number: it is taken out again


def batch_norm(
    x: Tensor, weight: Tensor, bias: Tensor, eps: float, root_eps: float = 0.0
) -> tuple[Tensor, Tensor, Tensor]:
    """The norm by the statistics of ``x [N, C, H, W]`` itself, which get their share of the gradient.

    Returns:
        ``y``; mean and unbiased variance ``[C]`` of the dtype of ``weight``, without a gradient.
    """
    if root_eps:
        var = x.to(torch.promote_types(x.dtype, torch.float32)).var((0, 2, 3), correction=0)
        weight, eps = weight * (var + POSITIVE).sqrt() / deviation(var, eps, root_eps), POSITIVE
    # With momentum 1 the running statistics handed in become exactly those of the batch.
    mean, var = torch.zeros_like(bias, requires_grad=False), torch.zeros_like(bias, requires_grad=False)
    y = _with_plain_strides(F.batch_norm(_with_plain_strides(x), mean, var, weight, bias, True, 1.0, eps))
    return y, mean, var


def fixed_norm(
    x: Tensor, mean: Tensor, var: Tensor, weight: Tensor, bias: Tensor, eps: float, root_eps: float = 0.0
) -> Tensor:
    """The norm of ``x [N, C, H, W]`` by statistics that are given."""
    if root_eps:
        var, eps = deviation(var, eps, root_eps).square(), 0.0
    # F.batch_norm of PyTorch 2.10 refuses an eps of 0 here as well, where later ones refuse it in training alone.
    cudnn = torch.backends.cudnn.enabled
    y = torch.batch_norm(_with_plain_strides(x), weight, bias, mean, var, False, 0.0, eps, cudnn)
    return _with_plain_strides(y)


def deviation(var: Tensor, eps: float, root_eps: float) -> Tensor:
    """The divisor of a norm, ``sqrt(var + eps) + root_eps``; the gradient of a root of 0 is taken as 0."""
    squared = var + eps
    positive = squared > 0
    return torch.where(positive, torch.where(positive, squared, 1.0).sqrt(), 0.0) + root_eps


def _with_plain_strides(x: Tensor) -> Tensor:
    """The same values, and the same gradients on their way back, with strides that tell the memory format."""
    if not (1 in x.shape and torch.is_grad_enabled()):
        return x
    rows = x.permute(0, 2, 3, 1)
    return rows.flatten().view(rows.shape).permute(0, 3, 1, 2)

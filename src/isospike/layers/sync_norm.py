"""Batch normalisation over the batches of several processes, exact for uneven ones.

PyTorch's own synchronised norm runs on accelerators only; this one runs on whatever the process group does.
"""

from functools import reduce
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from isospike.layers.statistics import Statistics
from isospike.ops import deviation, fixed_norm


def sync_batch_norm(
    x: Tensor, weight: Tensor, bias: Tensor, eps: float, root_eps: float, group: dist.ProcessGroup
) -> tuple[Tensor, Statistics]:
    """Normalise ``x [N, C, H, W]`` by the statistics of all processes together.

    Returns:
        The normalised batch, and the statistics it was normalised by.

    Gradient: of ``x`` through the joint statistics; those of ``weight`` and ``bias`` are this process's share.
    """
    joint = reduce(Statistics.join, _gather(_statistics(x.detach()), group))
    biased_var = joint.biased_var.to(weight.dtype)
    mean = joint.mean.to(weight.dtype)
    y = _SyncBatchNorm.apply(x, weight, bias, mean, biased_var, joint.count, eps, root_eps, group)
    return y, Statistics(joint.count, mean, joint.var.to(weight.dtype))


def _statistics(x: Tensor) -> Statistics:
    """Compute those of one process in float32 at least, as a variance, so that nothing cancels."""
    count = x.numel() // x.shape[1]
    var, mean = torch.var_mean(x.to(torch.promote_types(x.dtype, torch.float32)), dim=(0, 2, 3), correction=0)
    return Statistics.from_biased(count, mean, var)


def _gather(own: Statistics, group: dist.ProcessGroup) -> list[Statistics]:
    """Gather the statistics of every process, in double precision, without waiting for the device."""
    row = torch.cat([own.mean.double(), own.var.double(), own.mean.new_tensor([own.count], dtype=torch.double)])
    rows = [torch.empty_like(row) for _ in range(dist.get_world_size(group))]
    dist.all_gather(rows, row, group=group)
    C = own.mean.numel()
    return [Statistics(row[-1], row[:C], row[C:-1]) for row in rows]


class _SyncBatchNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        mean: Tensor,
        var: Tensor,
        count: Tensor,
        eps: float,
        root_eps: float,
        group: dist.ProcessGroup,
    ) -> Tensor:
        inv_std = 1 / deviation(var, eps, root_eps)
        ctx.save_for_backward(x, weight, mean, inv_std, inv_std * deviation(var, eps, 0.0), count)
        ctx.group = group
        return fixed_norm(x, mean, var, weight, bias, eps, root_eps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Compute ``dx = weight / sigma * (dy - mean(dy) - xhat * mean(dy * xhat) / share)`` over all processes.

        The share is that of the root in ``sigma = root + root_eps``; a channel that does not vary has no root and no
        xhat.
        """
        x, weight, mean, inv_std, share, count = ctx.saved_tensors
        dy = grads[0]
        shape = (1, -1, 1, 1)
        xhat = (x - mean.view(shape)) * inv_std.view(shape)
        d_bias, d_weight = dy.sum((0, 2, 3)), (dy * xhat).sum((0, 2, 3))
        sums = torch.stack([d_bias, d_weight])
        dist.all_reduce(sums, group=ctx.group)
        mean_dy, mean_dy_xhat = (sums / count).unbind()
        mean_dy_xhat = torch.where(share > 0, mean_dy_xhat / share, 0.0)
        dx = (weight * inv_std).view(shape) * (dy - mean_dy.view(shape) - xhat * mean_dy_xhat.view(shape))
        return dx.to(x.dtype), d_weight, d_bias, None, None, None, None, None, None

"""Batch normalisation whose statistics run over time, batch and space jointly."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed import ProcessGroup

from isospike.errors import ConfigError, ShapeError
from isospike.layers.statistics import Statistics, take_up
from isospike.layers.sync_norm import sync_batch_norm
from isospike.ops import batch_norm, deviation, fixed_norm


class BatchNorm(nn.Module):
    """``y = weight * scale * (x - mean) / (sqrt(var + eps) + root_eps) + bias`` per channel, on ``[T*B, C, H, W]``.

    In training, mean and variance are those of the batch, over time, batch and space jointly; in eval the running
    ones. Time is folded into the batch by the caller, so a static image seen T times counts once: its mean and
    biased variance are the same.

    Args:
        num_features: Channels C.
        weight: Initial value of the learnable weight; 0 silences the branch that ends here.
        bias: Initial value of the learnable bias.
        scale: Constant factor, tdBN's ``alpha * v_threshold``. Unlike a weight that starts at that value it is not
            trained and not decayed.
        affine: Whether weight and bias are learned; otherwise they stay where they start.
        eps: Added to the variance, at least 0.
        root_eps: Added to its root, at least 0; one of the two is greater.
        momentum: Share of the newest statistics in the running ones.

    Raises:
        ConfigError: ``eps`` and ``root_eps`` would let it divide by 0.

    Source: tdBN: Zheng et al. 2021, arXiv:2011.05280, eq. 6-8; ``scale`` 1 is Ioffe and Szegedy 2015 on ``T*B``.
    """

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(
        self,
        num_features: int,
        *,
        weight: float = 1.0,
        bias: float = 0.0,
        scale: float = 1.0,
        affine: bool = True,
        eps: float = 1e-5,
        root_eps: float = 0.0,
        momentum: float = 0.1,
    ) -> None:
        super().__init__()
        check_eps(eps, root_eps)
        self.num_features, self.scale, self.momentum = num_features, scale, momentum
        self.eps, self.root_eps = eps, root_eps
        for name, start in (("weight", weight), ("bias", bias)):
            values = torch.full((num_features,), float(start))
            if affine:
                self.register_parameter(name, nn.Parameter(values))
            else:
                self.register_buffer(name, values)
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features))
        self.process_group: ProcessGroup | None = None

    def forward(self, x: Tensor) -> Tensor:
        """``[T*B, C, H, W]`` to the same shape.

        Raises:
            ShapeError: not 4-d, the wrong number of channels, or in training a single value per channel.
        """
        if x.dim() != 4 or x.shape[1] != self.num_features:
            raise ShapeError(f"the norm takes [T*B, {self.num_features}, H, W], got {list(x.shape)}")
        weight = self.scaled_weight()
        if not self.training:
            return fixed_norm(x, self.running_mean, self.running_var, weight, self.bias, self.eps, self.root_eps)
        if self.process_group is None:
            y, statistics = self._local(x, weight)
        else:
            y, statistics = sync_batch_norm(x, weight, self.bias, self.eps, self.root_eps, self.process_group)
        self.record(statistics)
        return y

    def scaled_weight(self) -> Tensor:
        """Weight times the constant factor, ``[C]``."""
        return self.weight if self.scale == 1 else self.weight * self.scale

    def running_deviation(self) -> Tensor:
        """What eval divides by ``[C]``, in float64."""
        return deviation(self.running_var.double(), self.eps, self.root_eps)

    def takes_statistics_of(self, x: Tensor) -> bool:
        """Whether mean and variance are those of ``x [T, B, C, H, W]`` alone, and ``x`` has enough values for them."""
        fits = x.dim() == 5 and x.shape[2] == self.num_features and x.numel() >= 2 * self.num_features
        return self.training and self.process_group is None and fits

    def record(self, statistics: Statistics) -> None:
        """Let the running statistics move towards those of a batch, now or at the end of ``one_statistics_update``."""
        take_up(self, statistics)

    @torch.no_grad()
    def move(self, batch: Statistics, where: Tensor | None) -> None:
        """Let the running statistics move towards those of a batch, where the 0-d bool says so; None: it does.

        A channel whose mean or variance is not finite stays as it is: nothing would ever take it back.
        """
        moves = (batch.mean + batch.var).isfinite()
        if where is not None:
            moves = moves & where
        for running, now in ((self.running_mean, batch.mean), (self.running_var, batch.var)):
            running.lerp_(torch.where(moves, now, running), self.momentum)

    def _local(self, x: Tensor, weight: Tensor) -> tuple[Tensor, Statistics]:
        count = x.numel() // self.num_features
        if count < 2:
            raise ShapeError(
                f"batch statistics need two values per channel, got a batch of shape {list(x.shape)}: "
                "take a larger batch, more time steps or larger images"
            )
        y, mean, var = batch_norm(x, weight, self.bias, self.eps, self.root_eps)
        return y, Statistics(count, mean, var)

    def extra_repr(self) -> str:
        """Size and constants, for ``print(model)``."""
        eps = f"eps={self.eps:g}" if not self.root_eps else f"eps={self.eps:g}, root_eps={self.root_eps:g}"
        return f"{self.num_features}, scale={self.scale:g}, {eps}, momentum={self.momentum:g}"


def check_eps(eps: float, root_eps: float) -> None:
    """Refuse what would let a norm divide by 0.

    Raises:
        ConfigError: one of them is below 0 or not finite, or none is greater than 0.
    """
    if not (0 <= eps < math.inf and 0 <= root_eps < math.inf and eps + root_eps > 0):
        raise ConfigError(
            f"eps and root_eps of a norm are at least 0, and one of them is greater, got eps={eps:g} and "
            f"root_eps={root_eps:g}"
        )


class PerStepNorm(nn.ModuleList):
    """A batch norm for every time step, each with weights and statistics of its own.

    Args:
        T: Time steps; there are no others.
        num_features: Channels C.
        options: Of every ``BatchNorm``.

    Source: Kim and Panda 2021 (BNTT), arXiv:2010.01729.
    """

    def __init__(self, T: int, num_features: int, **options: Any) -> None:
        super().__init__(BatchNorm(num_features, **options) for _ in range(T))

    def forward(self, x: Tensor, start: int) -> Tensor:
        """``[steps, B, C, H, W]``, the first of them time step ``start`` counted from 0, to the same shape."""
        norms = list(self)[start : start + len(x)]
        return torch.stack([norm(x_t) for norm, x_t in zip(norms, x, strict=True)])


def synchronise_norms(model: nn.Module, process_group: ProcessGroup) -> None:
    """Let every batch norm of ``model`` take its statistics over all processes of the group as well."""
    for module in model.modules():
        if isinstance(module, BatchNorm):
            module.process_group = process_group

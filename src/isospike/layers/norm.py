"""Batch normalisation whose statistics run over time, batch and space jointly."""

import math
from copy import deepcopy
from typing import Any, Self, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import ProcessGroup
from torch.nn.modules.module import register_module_module_registration_hook

from isospike.errors import ConfigError, ShapeError
from isospike.layers.statistics import Statistics, take_up
from isospike.layers.sync_norm import sync_batch_norm
from isospike.ops import batch_norm, deviation, fixed_norm


class BatchNorm(nn.BatchNorm2d):
    """``y = weight * scale * (x - mean) / (sqrt(var + eps) + root_eps) + bias`` per channel, on ``[T*B, C, H, W]``.

    In training, mean and variance are those of the batch, over time, batch and space jointly; in eval the running
    ones. Time is folded into the batch by the caller, so a static image seen T times counts once: its mean and
    biased variance are the same.

    It is one of PyTorch's, so that what asks for those (freezing, weight decay, ``swa_utils.update_bn``) finds it, but
    it counts no batches in ``state_dict``. Use ``synchronise_norms`` for statistics over several processes;
    ``SyncBatchNorm.convert_sync_batchnorm`` does the same for every module that holds norms of this class.

    Args:
        num_features: Channels C.
        weight: Initial value of the learnable weight; 0 silences the branch that ends here.
        bias: Initial value of the learnable bias.
        scale: Constant factor, tdBN's ``alpha * v_threshold``. Unlike a weight that starts at that value it is not
            trained and not decayed.
        affine: Whether weight and bias are learned; otherwise they stay where they start.
        eps: Added to the variance, at least 0.
        root_eps: Added to its root, at least 0; one of the two is greater.
        momentum: Share of the newest statistics in the running ones; None: these are the mean of all since
            ``reset_running_stats``.

    Raises:
        ConfigError: ``eps`` and ``root_eps`` would let it divide by 0.

    Source: tdBN: Zheng et al. 2021, arXiv:2011.05280, eq. 6-8; ``scale`` 1 is Ioffe and Szegedy 2015 on ``T*B``.
    """

    weight: Tensor  # type: ignore[assignment]  # a buffer where it is not learned
    bias: Tensor  # type: ignore[assignment]
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
        momentum: float | None = 0.1,
    ) -> None:
        nn.Module.__init__(self)  # not PyTorch's norm's, which has no weight that is not learned
        check_eps(eps, root_eps)
        self.num_features, self.scale, self.momentum = num_features, scale, momentum
        self.eps, self.root_eps = eps, root_eps
        self.affine, self.track_running_stats, self.num_batches_tracked = affine, True, None
        self.starts: dict[str, float | Tensor] = {"weight": weight, "bias": bias}
        for name in self.starts:
            if affine:
                self.register_parameter(name, nn.Parameter(torch.empty(num_features)))
            else:
                self.register_buffer(name, torch.empty(num_features))
        self.register_buffer("running_mean", torch.empty(num_features))
        self.register_buffer("running_var", torch.empty(num_features))
        self.reset_parameters()
        self.process_group: ProcessGroup | None = None

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Put weight, bias and running statistics back to where they started."""
        for name, start in self.starts.items():
            getattr(self, name).fill_(start)
        self.reset_running_stats()

    def reset_running_stats(self) -> None:
        """Set the running mean to 0 and the variance to 1, as of no batch."""
        self.running_mean.zero_()
        self.running_var.fill_(1)
        self._averaged = 0

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[T*B, C, H, W]`` to the same shape.

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
        """Return weight times the constant factor, ``[C]``."""
        return self.weight if self.scale == 1 else self.weight * self.scale

    def running_affine(self) -> tuple[Tensor, Tensor]:
        """Return the ``a`` and ``b`` of ``a x + b``, which the norm is in eval: ``[C]`` in float64."""
        a = self.weight.double() * self.scale / deviation(self.running_var.double(), self.eps, self.root_eps)
        return a, self.bias.double() - self.running_mean.double() * a

    def takes_statistics_of(self, x: Tensor) -> bool:
        """Return whether mean and variance are those of ``x [T, B, C, H, W]``, and it has enough values."""
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
        share = self.momentum
        if share is None:
            self._averaged += 1
            share = 1 / self._averaged
        moves = (batch.mean + batch.var).isfinite()
        if where is not None:
            moves = moves & where
        for running, now in ((self.running_mean, batch.mean), (self.running_var, batch.var)):
            running.lerp_(torch.where(moves, now, running), share)

    def _local(self, x: Tensor, weight: Tensor) -> tuple[Tensor, Statistics]:
        count = x.numel() // self.num_features
        if count < 2:
            raise ShapeError(
                f"batch statistics need two values per channel, got a batch of shape {list(x.shape)}: "
                "take a larger batch, more time steps or larger images"
            )
        y, mean, var = batch_norm(x, weight, self.bias, self.eps, self.root_eps)
        return y, Statistics(count, mean, var)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Copy it for the same processes, which cannot be copied."""
        memo[id(self.process_group)] = self.process_group
        memo[id(self)] = copied = type(self).__new__(type(self))
        copied.__dict__.update(deepcopy(self.__dict__, memo))
        return copied

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, local_metadata: dict[str, Any], *rest: Any
    ) -> None:
        """Load as any module: PyTorch's norm would add a count of batches to files that have none."""
        nn.Module._load_from_state_dict(self, state_dict, prefix, local_metadata, *rest)

    def extra_repr(self) -> str:
        """Return the size and the constants, for ``print(model)``."""
        eps = f"eps={self.eps:g}" if not self.root_eps else f"eps={self.eps:g}, root_eps={self.root_eps:g}"
        return f"{self.num_features}, scale={self.scale:g}, {eps}, momentum={self.momentum}"


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
        """Map ``[steps, B, C, H, W]``, the first of them time step ``start`` counted from 0, to the same shape."""
        norms = list(self)[start : start + len(x)]
        return torch.stack([norm(x_t) for norm, x_t in zip(norms, x, strict=True)])


def synchronise_norms(model: nn.Module, process_group: ProcessGroup | None = None) -> None:
    """Let every batch norm of ``model`` take its statistics over all processes of the group as well.

    Exact for batches of different sizes, on a CPU too. Call it before ``DistributedDataParallel`` wraps the model.

    Args:
        model: With norms of this package.
        process_group: The processes; None: all of them.

    Raises:
        ConfigError: no processes have been joined.
    """
    if process_group is None:
        if not (dist.is_available() and dist.is_initialized()):
            raise ConfigError(
                "synchronised norms take their statistics over several processes: "
                "call torch.distributed.init_process_group first"
            )
        process_group = dist.group.WORLD
    for module in model.modules():
        if isinstance(module, BatchNorm):
            module.process_group = process_group


def _kept_norm(parent: nn.Module, name: str, new: nn.Module | None) -> nn.Module | None:
    """Keep a norm in its place, and synchronise it, where ``SyncBatchNorm.convert_sync_batchnorm`` made ``new`` of it.

    PyTorch's has no constant factor and runs on GPUs alone. A hook on the registration of modules sees this in every
    module that holds a norm; None lets ``new`` in.
    """
    old = parent._modules.get(name)
    if not isinstance(old, BatchNorm) or not isinstance(new, nn.SyncBatchNorm):
        return None
    if new.running_mean is not old.running_mean:
        return None
    synchronise_norms(old, cast(ProcessGroup | None, new.process_group))
    return old


register_module_module_registration_hook(_kept_norm)  # type: ignore[arg-type]  # it may return a module

"""Optimisers, and which parameters decay."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, ClassVar, Literal

import torch
from pydantic import NonNegativeFloat, PositiveFloat
from torch import Tensor, nn

from isospike.layers import BatchNorm
from isospike.neurons import Neuron
from isospike.spec import Kinds, Share, Spec

NoDecay = Literal["norm", "bias", "neuron"]
Groups = list[dict[str, Any]]


class OptimSpec(Spec, ABC):
    """The ``optim`` of a run; ``no_decay`` names the groups of parameters without weight decay."""

    fusable: ClassVar[bool] = False  # whether PyTorch has a fused form, which can leave a step out on the device

    kind: str
    lr: PositiveFloat
    weight_decay: NonNegativeFloat = 0.0
    no_decay: tuple[NoDecay, ...] = ()

    @property
    @abstractmethod
    def moments(self) -> int:
        """Numbers that the optimiser keeps for each parameter."""

    @abstractmethod
    def build(self, groups: Groups, **options: Any) -> torch.optim.Optimizer:
        """Build the optimiser.

        Args:
            groups: Parameters and their weight decay.
            options: ``lr``, and ``fused=True`` where ``fusable`` and the parameters are on a GPU.
        """


OPTIMIZERS: Kinds[OptimSpec] = Kinds("optimiser")


@OPTIMIZERS.add
class SGDSpec(OptimSpec):
    """Builds stochastic gradient descent."""

    fusable = True

    kind: Literal["sgd"]
    momentum: Share = 0.9
    nesterov: bool = False

    @property
    def moments(self) -> int:
        """The momentum, where there is one."""
        return 1 if self.momentum else 0

    def build(self, groups: Groups, **options: Any) -> torch.optim.Optimizer:
        """Build the optimiser; fused, its momentum starts at zero.

        PyTorch's fused SGD leaves the momentum unwritten where its first step is left out; zero is the same start.
        """
        optimizer = torch.optim.SGD(groups, momentum=self.momentum, nesterov=self.nesterov, **options)
        if optimizer.defaults["fused"] and self.momentum:
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        return optimizer


@OPTIMIZERS.add
class AdamWSpec(OptimSpec):
    """Builds Adam with decoupled weight decay."""

    fusable = True

    kind: Literal["adamw"]
    betas: tuple[Share, Share] = (0.9, 0.999)
    eps: PositiveFloat = 1e-8
    weight_decay: NonNegativeFloat = 0.01

    @property
    def moments(self) -> int:
        """The means of the gradient and of its square."""
        return 2

    def build(self, groups: Groups, **options: Any) -> torch.optim.Optimizer:
        """Build the optimiser."""
        return torch.optim.AdamW(groups, betas=self.betas, eps=self.eps, **options)


def build_optimizer(spec: OptimSpec, model: nn.Module) -> torch.optim.Optimizer:
    """Build the optimiser over all parameters of ``model`` that learn.

    On a GPU it is the fused one, where there is one, and its learning rate a tensor there: a step then needs nothing
    from the host.
    """
    free = set(_parameters_of(model, spec.no_decay))
    learning = learning_parameters(model)
    groups = [
        {"params": [p for p in learning if p not in free], "weight_decay": spec.weight_decay},
        {"params": [p for p in learning if p in free], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    device = next(model.parameters()).device
    if device.type == "cuda" and spec.fusable:
        return spec.build(groups, lr=torch.tensor(spec.lr, device=device), fused=True)
    return spec.build(groups, lr=spec.lr)


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give every group of parameters this learning rate, in place where it is a tensor."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(lr)
        else:
            group["lr"] = lr


def learning_parameters(model: nn.Module) -> list[nn.Parameter]:
    """List the parameters that are not frozen."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def _parameters_of(model: nn.Module, kinds: tuple[str, ...]) -> Iterator[nn.Parameter]:
    """Yield the parameters of batch norms ("norm"), of neurons ("neuron"), and biases of all other layers ("bias")."""
    for module in model.modules():
        kind = "norm" if isinstance(module, BatchNorm) else "neuron" if isinstance(module, Neuron) else "bias"
        if kind in kinds:
            for name, parameter in module.named_parameters(recurse=False):
                if kind != "bias" or name == "bias":
                    yield parameter

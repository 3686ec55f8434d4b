"""Optimisers, which parameters decay, and the learning rate at every step."""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from isospike.config import ConstantSchedule, CosineSchedule, OptimSpec, ScheduleSpec, SGDSpec
from isospike.layers import BatchNorm
from isospike.neurons import Neuron

Groups = list[dict[str, Any]]


def build_optimizer(spec: OptimSpec, model: nn.Module) -> torch.optim.Optimizer:
    """The optimiser over all parameters of ``model`` that learn, those named by ``no_decay`` without weight decay.

    On a GPU it is the fused one, and its learning rate a tensor there: a step then needs nothing from the host.
    """
    free = set(_parameters_of(model, spec.no_decay))
    learning = learning_parameters(model)
    groups = [
        {"params": [p for p in learning if p not in free], "weight_decay": spec.weight_decay},
        {"params": [p for p in learning if p in free], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    device = next(model.parameters()).device
    if device.type == "cuda":
        return fused(spec, groups, torch.tensor(spec.lr, device=device))
    return _optimizer(spec, groups, lr=spec.lr)


def fused(spec: OptimSpec, groups: Groups, lr: Tensor) -> torch.optim.Optimizer:
    """The fused optimiser, which can be told on the device to leave a step out.

    Left out, the first step of PyTorch's fused SGD leaves its momentum unwritten; so it starts at zero, which is the
    same.
    """
    optimizer = _optimizer(spec, groups, lr=lr, fused=True)
    if isinstance(spec, SGDSpec) and spec.momentum:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer


def _optimizer(spec: OptimSpec, groups: Groups, **options: Any) -> torch.optim.Optimizer:
    if isinstance(spec, SGDSpec):
        return torch.optim.SGD(groups, momentum=spec.momentum, nesterov=spec.nesterov, **options)
    return torch.optim.AdamW(groups, betas=spec.betas, eps=spec.eps, **options)


def learning_parameters(model: nn.Module) -> list[nn.Parameter]:
    """Those that are not frozen."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def _parameters_of(model: nn.Module, kinds: tuple[str, ...]) -> Iterator[nn.Parameter]:
    """Parameters of batch norms ("norm"), of neurons ("neuron"), and biases of all other layers ("bias")."""
    for module in model.modules():
        kind = "norm" if isinstance(module, BatchNorm) else "neuron" if isinstance(module, Neuron) else "bias"
        if kind in kinds:
            for name, parameter in module.named_parameters(recurse=False):
                if kind != "bias" or name == "bias":
                    yield parameter


def learning_rate(spec: ScheduleSpec, lr: float, step: int, steps_per_epoch: int, epochs: int) -> float:
    """The learning rate of optimiser step ``step``, counted from 0.

    A linear warm-up reaches ``lr`` at its last step. The cosine then runs over what is left, and like the sources'
    never spends a step at its end value: with ``n`` changes the k-th is at ``k/n`` of the half period.
    """
    warmup = round(spec.warmup_epochs * steps_per_epoch)
    if step < warmup:
        return lr * (step + 1) / warmup
    if isinstance(spec, ConstantSchedule):
        return lr
    if isinstance(spec, CosineSchedule):
        unit = steps_per_epoch if spec.every == "epoch" else 1
        past = (step // unit - warmup // unit) / max(1, (epochs * steps_per_epoch) // unit - warmup // unit)
        return spec.min_lr + (lr - spec.min_lr) * (1 + math.cos(math.pi * past)) / 2
    passed = sum(step >= milestone * steps_per_epoch for milestone in spec.milestones)
    return lr * spec.gamma**passed

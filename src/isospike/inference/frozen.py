"""Copies of a model for inference: in eval, with weights that no hook rewrites."""

from copy import deepcopy
from typing import TypeVar

from torch import Tensor, nn
from torch.nn.utils import prune
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

Module = TypeVar("Module", bound=nn.Module)
REWRITES = (prune.BasePruningMethod, SpectralNorm, WeightNorm)  # hooks that write a weight before every forward


def frozen(module: Module) -> Module:
    """Copy a module in eval, without gradients.

    Weights that a hook writes before every forward, as pruning does, are written a last time and stay; PyTorch copies
    no tensor that has a graph, as they do, so they are copied without.
    """
    computed = [v for m in module.modules() for v in vars(m).values() if isinstance(v, Tensor) and not v.is_leaf]
    copy = deepcopy(module, {id(v): v.detach().clone() for v in computed}).eval().requires_grad_(False)
    for layer in copy.modules():
        for key, hook in list(layer._forward_pre_hooks.items()):
            if isinstance(hook, REWRITES):
                hook(layer, ())
                del layer._forward_pre_hooks[key]
    return copy

"""Reasons why the compiled library cannot run something, each as the end of a sentence."""

import torch
from torch import Tensor

from isospike.errors import ConfigError
from isospike.ops.cpu.abi import MAX_LEVELS
from isospike.ops.cpu.library import no_library
from isospike.ops.memory import has_memory
from isospike.ops.rule import FireRule, IntegerRule, Rule


def refused_place(x: Tensor) -> str | None:
    """Why the memory of ``x`` cannot be handed to a library; None where it can."""
    if x.device.type != "cpu" or not has_memory(x):
        return "it runs on plain tensors in the memory of the CPU"
    return no_library()


def refused_dtype(dtype: torch.dtype) -> str | None:
    """Why numbers of this dtype cannot be read; None where they can."""
    if dtype == torch.float32:
        return None
    return f"it computes in float32, and is given {str(dtype).removeprefix('torch.')}"


def refused_rule(rule: Rule) -> str | None:
    """Why neurons of this rule cannot be run; None where they can."""
    if type(rule) not in (FireRule, IntegerRule):
        return f"it does not know the rule {type(rule).__name__}"
    if not isinstance(rule, FireRule):
        return None
    if rule.surrogate.kernel is None:
        return f"it does not know the surrogate {type(rule.surrogate).__name__}"
    return f"it has room for {MAX_LEVELS} levels" if rule.levels > MAX_LEVELS else None


def no_second_derivative(what: str) -> ConfigError:
    """The error where somebody differentiates a gradient of the library."""
    return ConfigError(f"the compiled {what} has no second derivative: run this inside iso.use_backend('reference')")

"""Instruments leave a network as they found it."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def in_training_mode(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Use batch statistics inside the block; behind it modes, running statistics and random state are as before."""
    every = {inner for module in modules for inner in module.modules()}
    modes = {module: module.training for module in every}
    buffers = [
        (module, name, buffer, buffer.clone())
        for module in every
        for name, buffer in module.named_buffers(recurse=False)
    ]
    gpus = {p.device for module in every for p in module.parameters(recurse=False) if p.device.type == "cuda"}
    with torch.random.fork_rng(devices=gpus):
        try:
            for module in every:
                module.training = True
            yield
        finally:
            for module, mode in modes.items():
                module.training = mode
            with torch.no_grad():
                for module, name, buffer, before in buffers:
                    setattr(module, name, buffer.copy_(before))

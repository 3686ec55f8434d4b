"""A converted network at every number of time steps, from one run in memory that does not grow with them."""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from isospike.inference import CompiledNet
from isospike.layers import Steps
from isospike.models import ProgramNet

BATCH, STEPS = 8, 4  # images, and steps of them, that go through together: a core's cache holds their maps
GPU_BATCH = 512  # images on a GPU, which would wait for launches with fewer


def sums_by_step(net: CompiledNet, images: Tensor, T: int) -> Iterator[Tensor]:
    """Yield the sum of the logits ``[B, K]`` of the first 1, 2, ... T steps, for images ``[B, C, H, W]``."""
    x, T = net.check(images, T)
    with torch.inference_mode():
        maps, states, total = net.begin(x[0]), {}, torch.zeros(())  # type: ignore[var-annotated]
        for start in range(0, T, STEPS):
            for logits in net.steps(maps, states, range(start, min(start + STEPS, T)), x.shape[1]):
                total = total + logits
                yield total


def logit_sums(net: ProgramNet, images: Tensor, T: int) -> Tensor:
    """Return the sum ``[T, N, K]`` of the logits of the first 1, 2, ... T steps; ``sums_by_step`` for all images."""
    compiled = net.eval().compile_for_inference()
    return torch.cat([_stacked(sums_by_step(compiled, x, T), T) for x in images.split(_batch(images))], 1)


def _batch(images: Tensor) -> int:
    return BATCH if images.device.type == "cpu" else GPU_BATCH


def _stacked(sums: Iterator[Tensor], T: int) -> Tensor:
    """Stack T tensors that come one by one, in memory of their own: copies among the maps would leave holes there."""
    first = next(sums)
    found = first.new_empty(T, *first.shape)
    found[0] = first
    for t, now in enumerate(sums, 1):
        found[t] = now
    return found


def decisions_by_step(net: ProgramNet, images: Tensor, T: int) -> Tensor:
    """Return the class ``[T, N]`` that the first 1, 2, ... T steps decide for, as ``net(images, T=t)`` does."""
    return logit_sums(net, images, T).argmax(2)


def accuracy_by_step(net: ProgramNet, batches: Iterable[tuple[Tensor, Tensor]], T: int) -> Tensor:
    """Return the share of right answers ``[T]`` after 1, 2, ... T steps, in float64.

    Args:
        net: A converted network.
        batches: Images ``[N, C, H, W]`` with labels ``[N]``.
        T: The largest number of steps.
    """
    hits, samples = torch.zeros(T, dtype=torch.float64), 0
    for images, labels in batches:
        hits += (decisions_by_step(net, images, T) == labels).sum(1).cpu()
        samples += len(labels)
    return hits / samples


@torch.no_grad()
def decisions_of(ann: ProgramNet, images: Tensor) -> Tensor:
    """Return the class ``[N]`` that an ANN decides for."""
    parts = [ann.run(part.unsqueeze(0), Steps(1, {}))[0].argmax(1) for part in images.split(_batch(images) * STEPS)]
    return torch.cat(parts)

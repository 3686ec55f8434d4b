"""One optimiser step: put to the device whole, so that nothing in it waits for what the device has computed."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from isospike.config import TrainSpec
from isospike.errors import ConfigError
from isospike.layers import HeldStatistics, statistics_held
from isospike.objectives import Objective
from isospike.processes import World
from isospike.train.graphs import CapturedStep
from isospike.train.learner import Learner

PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


class Figures(NamedTuple):
    """What a step tells of itself, as it was before the update; the first four are sums over all processes.

    Args:
        loss: Over the images.
        correct: Images put into their class.
        images: Images seen.
        stops: Processes that were asked to stop.
        grad_norm: Of the gradient before clipping.
        scale: Of fp16 gradients.
    """

    loss: float
    correct: float
    images: float
    stops: float
    grad_norm: float
    scale: float


@dataclass(frozen=True)
class Taken:
    """A step that the device may still be at: its number and epoch, counted from 1, and all that it was given.

    Args:
        step: Number of the step.
        epoch: Number of its epoch.
        lr: Learning rate.
        seed: Of what it draws.
        batch: Images, targets, labels.
        flow: What was seen in the network, if it was watched.
    """

    step: int
    epoch: int
    lr: float
    seed: int
    batch: tuple[Tensor, Tensor, Tensor]
    flow: dict[str, Any] | None


class Step:
    """``figures = step(images, targets, labels, stop)``: gradients of a batch, and the update where they are finite.

    Args:
        learner: The network and what moves its weights.
        objective: The loss.
        world: The processes.
        spec: Precision, parts of a batch, clipping, and whether the step becomes a CUDA graph.

    Raises:
        ConfigError: a CUDA graph asked for on a CPU, or of several processes.
    """

    def __init__(self, learner: Learner, objective: Objective, world: World, spec: TrainSpec) -> None:
        self.learner, self.objective, self.world, self.spec = learner, objective, world, spec
        self._take: Callable[..., Tensor] = self._launch
        if spec.cuda_graph and (world.size > 1 or world.device.type != "cuda"):
            raise ConfigError(
                f"train.cuda_graph captures the steps of one process on a GPU, "
                f"and this run has {world.size} on {world.device.type}"
            )

    def __call__(self, images: Tensor, targets: Tensor, labels: Tensor, stop: bool) -> Tensor:
        """Take a step, and return ``Figures`` as a float64 tensor ``[6]`` on the device."""
        asked = torch.full((), float(stop), dtype=torch.float64, device=self.world.device)
        figures = self._take(images, targets, labels, asked)
        if self.learner.average:
            self.learner.average.update(self.learner.model)
        return figures

    def capture(self, images: Tensor, targets: Tensor, labels: Tensor) -> None:
        """Make a CUDA graph of the steps on batches like this one."""
        learner, asked = self.learner, torch.zeros((), dtype=torch.float64, device=self.world.device)
        self._take = CapturedStep(learner.model, learner.optimizer, self._launch, (images, targets, labels, asked))

    def forward(self, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the logits of every step, and their mean loss."""
        dtype = PRECISIONS[self.spec.precision]
        with torch.autocast(self.world.device.type, dtype, enabled=dtype is not None):
            logits = self.learner.network(images, per_step=True)
        return logits, self.objective(logits.float(), targets)

    def forward_backward(self, images: Tensor, targets: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Compute gradients of the mean loss over the batch, part by part; return the loss and the hits.

        Images are ``[B, C, H, W]`` or ``[T, B, C, H, W]``, which are cut along B.

        Running statistics move at every part, unless they are held.
        """
        parts = self.spec.accumulate
        loss = torch.zeros((), dtype=torch.float64, device=self.world.device)
        correct = torch.zeros((), dtype=torch.float64, device=self.world.device)
        chunks = zip(images.chunk(parts, -4), targets.chunk(parts), labels.chunk(parts), strict=True)
        for number, (x, y, true) in enumerate(chunks, start=1):
            with self._without_exchange(number < parts):
                logits, part = self.forward(x, y)
                self.learner.scaler.scale(part / parts).backward()
            loss += part.detach() / parts
            correct += (logits.detach().mean(0).argmax(-1) == true).sum()
        return loss, correct

    def _launch(self, images: Tensor, targets: Tensor, labels: Tensor, stop: Tensor) -> Tensor:
        with statistics_held() as held:
            loss, correct = self.forward_backward(images, targets, labels)
        count = torch.full_like(loss, len(labels))
        sums = self.world.sum(torch.stack([loss * count, correct, count, stop]))
        scale = self.learner.scaler.scale(torch.ones_like(loss))
        norm = self._update(sums[0], held)
        return torch.cat([sums, torch.stack([norm.double(), scale])])

    def _update(self, loss: Tensor, held: HeldStatistics) -> Tensor:
        """Take one step of the optimiser, unless loss or gradient is not finite; return the unclipped norm.

        Running statistics move by those ``held`` where weights do.

        In fp16 an infinite gradient is nothing unusual: the scaler leaves the step out and lowers its scale.
        """
        learner, scaler = self.learner, self.learner.scaler
        scaler.unscale_(learner.optimizer)
        norm = torch.nn.utils.get_total_norm([p.grad for p in learner.model.parameters() if p.grad is not None])
        if self.spec.clip_norm:
            torch.nn.utils.clip_grads_with_norm_(learner.model.parameters(), self.spec.clip_norm, norm)
        finite = loss.isfinite() & norm.isfinite()
        held.release(finite)
        if scaler.is_enabled():
            scaler.step(learner.optimizer)
            scaler.update()
        else:
            step_if(finite, learner.optimizer)
        learner.optimizer.zero_grad()
        return norm

    def _without_exchange(self, hold: bool) -> AbstractContextManager[None]:
        """Leave the exchange of gradients to the last part of a batch."""
        return self.learner.network.no_sync() if hold and self.world.size > 1 else nullcontext()  # type: ignore[operator]


def step_if(finite: Tensor, optimizer: torch.optim.Optimizer) -> None:
    """Take one step of the optimiser if the 0-d bool tensor says so, without the host waiting for it.

    They are told as by ``torch.amp.GradScaler``.
    """
    if not optimizer.defaults.get("fused"):
        if finite:
            optimizer.step()
        return
    optimizer.grad_scale = None  # type: ignore[attr-defined]
    optimizer.found_inf = (~finite).float()  # type: ignore[attr-defined]
    optimizer.step()
    del optimizer.grad_scale, optimizer.found_inf  # type: ignore[attr-defined]

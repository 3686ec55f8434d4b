"""A sample leaves once its decision is settled: as many time steps as an image needs."""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from isospike.errors import ConfigError
from isospike.inference.compiled import CompiledNet


class Decision(NamedTuple):
    """Logits ``[B, num_classes]``, the mean over the steps that each sample took, and their number ``[B]``."""

    logits: Tensor
    steps: Tensor


class EarlyExit(nn.Module):
    """A compiled network that stops a sample where the mean of its logits so far leads by enough.

    Samples that left cost nothing further: the batch shrinks from step to step.

    Args:
        net: The network.
        margin: The lead of the largest mean logit over the next one at which a sample leaves; 0: after one step.

    Raises:
        ConfigError: the margin is negative, or there are fewer than two classes to decide between.
    """

    def __init__(self, net: CompiledNet, margin: float) -> None:
        super().__init__()
        if not margin >= 0:
            raise ConfigError(f"the margin at which a sample leaves must be 0 or more, got {margin}")
        self.net, self.margin = net, margin

    @classmethod
    def calibrated(
        cls, net: CompiledNet, batches: Iterable[Tensor], agreement: float, *, T: int | None = None
    ) -> "EarlyExit":
        """Choose the smallest margin from which on enough samples get the class that all steps give them.

        Args:
            net: The network.
            batches: Inputs that it was neither trained nor will be judged on.
            agreement: The wanted share of samples of unchanged class, in (0, 1].
            T: Time steps for static images, as in the forward.

        Raises:
            ConfigError: the share is out of range, or there is no sample.
        """
        if not 0 < agreement <= 1:
            raise ConfigError(f"the share of decisions that may not change must be in (0, 1], got {agreement}")
        runs = [running_mean(net(x, T=T, per_step=True)) for x in batches]
        if not runs:
            raise ConfigError("early exit is calibrated on images, and there are none")
        means = torch.cat(runs, 1)
        leads, classes = lead(means), means.argmax(-1)
        chosen = float("inf")
        for margin in leads[:-1].unique().flip(0):
            left = _first_step(leads, margin)
            agree = classes.gather(0, left[None])[0] == classes[-1]
            if agree.double().mean() < agreement:
                break
            chosen = float(margin)
        return cls(net, chosen)

    @torch.no_grad()
    def forward(self, x: Tensor, *, T: int | None = None) -> Decision:
        """Map inputs ``[B, C, H, W]`` or ``[T, B, C, H, W]`` to logits, and the steps they took."""
        images, (x, T) = x, self.net.check(x, T)
        B, static = x.shape[1], len(x) == 1
        if not B:
            return Decision(
                self.net(images, T=T if static else None), torch.empty(0, dtype=torch.long, device=x.device)
            )
        here, states = torch.arange(B, device=x.device), {}  # type: ignore[var-annotated]
        maps = self.net.begin(x[0]) if static else {}
        total: Tensor | None = None
        logits, taken = None, torch.full((B,), T, device=x.device)
        for t in range(T):
            maps = maps if static else self.net.begin(x[t, here])
            now = self.net.step(maps, states, t, len(here))
            total = now if total is None else total + now
            mean = total / (t + 1)
            logits = mean.new_empty(B, mean.shape[1]) if logits is None else logits
            stay = lead(mean) < self.margin if t < T - 1 else torch.zeros(len(here), dtype=torch.bool)
            logits[here[~stay]], taken[here[~stay]] = mean[~stay], t + 1
            if not stay.any():
                break
            if not stay.all():
                here, total = here[stay], total[stay]
                maps = {value: of[stay] for value, of in maps.items()}
                states = {owner: _select(v, stay) for owner, v in states.items()}
        assert logits is not None
        return Decision(logits, taken)


def running_mean(logits: Tensor) -> Tensor:
    """Map logits ``[T, B, K]`` of every step to their mean over the steps so far."""
    return logits.cumsum(0) / torch.arange(1, len(logits) + 1, device=logits.device).view(-1, 1, 1)


def lead(logits: Tensor) -> Tensor:
    """Return by how much the largest of ``[..., K]`` leads over the next one, ``[...]``.

    Raises:
        ConfigError: there is no next one.
    """
    if logits.shape[-1] < 2:
        raise ConfigError(f"early exit decides between classes, and this network has {logits.shape[-1]}")
    first, second = logits.topk(2, -1).values.unbind(-1)
    return first - second


def _first_step(leads: Tensor, margin: Tensor) -> Tensor:
    """Find the first step ``[B]``, from 0 on, whose lead of ``[T, B]`` is enough; the last where none is."""
    enough = leads >= margin
    enough[-1] = True
    return enough.int().argmax(0)


def _select(v: Tensor, stay: Tensor) -> Tensor:
    """Select the samples that stay, which come before channels and pixels, or before features."""
    of = 4 if v.dim() >= 4 else 2
    return v if v.dim() < of else v[(slice(None),) * (v.dim() - of) + (stay,)]

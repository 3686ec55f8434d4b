"""Batch norm, sum with a skip and neurons in one pass: what stands between two convolutions in training."""

from torch import Tensor

from isospike.errors import ShapeError
from isospike.ops.backend import pick_norm_fire
from isospike.ops.firing import Firing, NormFired


def norm_fire(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    root_eps: float = 0.0,
    *,
    skip: Tensor | None = None,
    firing: Firing | None = None,
    added: Tensor | None = None,
    keep: bool = False,
) -> NormFired | None:
    """``u = weight * (x - mean) / (sqrt(var + eps) + root_eps) + bias + skip``, from rest ``s = fire(u) + added``.

    Mean and biased variance are those of ``x`` over time, batch and space, and get their share of the gradient.

    Args:
        x: ``[T, B, C, H, W]``, at least two values per channel.
        weight: ``[C]``, with every constant factor in it.
        bias: ``[C]``.
        eps: Added to the variance.
        root_eps: Added to its root.
        skip: ``[T or 1, B, C, H, W]``, joins the current.
        firing: The neurons; None: nothing fires.
        added: ``[T or 1, B, C, H, W]``, joins the spikes.
        keep: Whether ``u`` is wanted besides the spikes; without neurons it always comes.

    Returns:
        ``u``, ``s``, mean and variance; None where no backend that is asked for runs this in one pass.

    Raises:
        ConfigError: a backend was asked for by name and cannot; the text says why.
        ShapeError: fewer than two values per channel.
    """
    if x.numel() < 2 * x.shape[2] or x.numel() == 0:
        raise ShapeError(f"batch statistics need two values per channel, got a batch of shape {list(x.shape)}")
    backend = pick_norm_fire(x, skip, added, firing)
    if backend is None:
        return None
    keep = keep or firing is None
    return backend.run(x, weight, bias, eps, root_eps, skip=skip, firing=firing, added=added, keep=keep)

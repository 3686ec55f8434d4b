"""The recurrence in eager PyTorch, differentiated by autograd: the truth that every faster version must equal."""

import torch
from torch import Tensor

from isospike.ops.batch_norm import batch_norm
from isospike.ops.firing import Firing, NormFired
from isospike.ops.rule import Rule


def leaky_fire(
    x: Tensor, v: Tensor | None, *, decay: float | Tensor, gain: float | Tensor, rule: Rule
) -> tuple[Tensor, Tensor]:
    """See ``isospike.ops.leaky_fire``; here shapes are taken as checked.

    Time is split off and put back along the folded dimension ``T*B``, as a batch: whatever memory format the images
    have (channels-last), both passes keep it.
    """
    T, B = x.shape[:2]
    v = rest(x, rule) if v is None else v
    spikes = []
    for x_t in x.flatten(0, 1).split([B] * T):  # T pieces whatever B is, so that B can be dynamic in torch.export
        _, s, v = advance(x_t, v, decay=decay, gain=gain, rule=rule)
        spikes.append(rule.count(s).to(x.dtype))
    return torch.cat(spikes).unflatten(0, (T, B)), v


def rest(x: Tensor, rule: Rule) -> Tensor:
    """Return the potential before the first step of a current ``[T, B, ...]``: 0."""
    v = torch.zeros_like(x[0], dtype=torch.promote_types(x.dtype, torch.float32))
    return v.expand(rule.state_shape(v.shape))


def advance(
    x: Tensor, v: Tensor, *, decay: float | Tensor, gain: float | Tensor, rule: Rule
) -> tuple[Tensor, Tensor, Tensor]:
    """Take one step: return the potential before the reset, what fires there, and the potential behind the reset."""
    h = _times(decay, v) + _times(gain, x.to(v.dtype))
    s = rule.fire(h)
    return h, s, rule.reset_after(h, s.detach() if rule.detach_reset else s)


def norm_fire(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    root_eps: float = 0.0,
    *,
    skip: Tensor | None,
    firing: Firing | None,
    added: Tensor | None,
    keep: bool,
) -> NormFired:
    """See ``isospike.ops.norm_fire``: its four operations one after the other."""
    folded, count = x.flatten(0, 1), x.numel() // x.shape[2]
    u, mean, var = batch_norm(folded, weight, bias, eps, root_eps)
    u, var = u.unflatten(0, x.shape[:2]), var * (1 - 1 / count)
    u = u if skip is None else u + skip
    if firing is None:
        return NormFired(u, None, mean, var)
    s, _ = leaky_fire(u, None, decay=firing.decay, gain=firing.gain, rule=firing.rule)
    return NormFired(u if keep else None, s if added is None else s + added, mean, var)


def _times(coefficient: float | Tensor, x: Tensor) -> Tensor:
    """Their product, without a pass over memory where the coefficient is the number 1."""
    return x if isinstance(coefficient, float) and coefficient == 1 else coefficient * x

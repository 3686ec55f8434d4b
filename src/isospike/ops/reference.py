"""The recurrence in eager PyTorch, differentiated by autograd: the truth that every faster version must equal."""

import torch
from torch import Tensor

from isospike.ops.rule import Rule


def leaky_fire(
    x: Tensor, v: Tensor | None, *, decay: float | Tensor, gain: float | Tensor, rule: Rule
) -> tuple[Tensor, Tensor]:
    """See ``isospike.ops.leaky_fire``; here shapes are taken as checked.

    Time is split off and put back along the folded dimension ``T*B``, as a batch: whatever memory format the images
    have (channels-last), both passes keep it.
    """
    T, B = x.shape[:2]
    if v is None:
        rest = torch.zeros_like(x[0], dtype=torch.promote_types(x.dtype, torch.float32))
        v = rest.expand(rule.state_shape(rest.shape))
    spikes = []
    for x_t in x.flatten(0, 1).split(B):
        h = _times(decay, v) + _times(gain, x_t.to(v.dtype))
        s = rule.fire(h)
        v = rule.reset_after(h, s.detach() if rule.detach_reset else s)
        spikes.append(rule.count(s).to(x.dtype))
    return torch.cat(spikes).unflatten(0, (T, B)), v


def _times(coefficient: float | Tensor, x: Tensor) -> Tensor:
    """Their product, without a pass over memory where the coefficient is the number 1."""
    return x if isinstance(coefficient, float) and coefficient == 1 else coefficient * x

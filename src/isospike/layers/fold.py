"""A trained norm folded into the neuron behind it, where no convolution stands before the norm to take it up."""

import torch
from torch import Tensor

from isospike.errors import ConfigError
from isospike.layers.exact import is_exactly
from isospike.layers.norm import BatchNorm
from isospike.neurons import Neuron, is_recurrence
from isospike.ops import FireRule


class FoldedNeuron(Neuron):
    """A neuron on ``a x + b``, run on ``x``: every threshold divided by ``a``, and a constant current ``b / a``.

    Its potential is the neuron's divided by ``a``; where ``a`` is negative it therefore fires below its threshold. It
    is for inference: there is no gradient through its spikes.

    Args:
        norm: A trained norm; its running statistics give ``a`` and ``b`` per channel.
        neuron: With one threshold.

    Raises:
        ConfigError: the neuron has several levels, puts out integers or has a ``forward`` of its own; the norm is of a
            class of its own; or ``a`` is 0 in a channel.
    """

    levels = 1

    def __init__(self, norm: BatchNorm, neuron: Neuron) -> None:
        super().__init__()
        if not is_exactly(norm, BatchNorm):
            raise ConfigError(
                f"a BatchNorm folds into a neuron, and a {type(norm).__name__} may compute something else"
            )
        if not is_recurrence(neuron) or not isinstance(neuron.rule, FireRule) or neuron.rule.higher:
            raise ConfigError(f"a norm folds into a neuron with one threshold, not into {type(neuron).__name__}")
        with torch.no_grad():
            a, b = norm.running_affine()
            slope = a.to(norm.weight.dtype)
            if (slope == 0).any():
                channel = int((slope == 0).nonzero()[0])
                raise ConfigError(
                    f"the norm's weight is 0 in channel {channel}: its neurons read no input to fold it into"
                )
            current = (b / a).to(norm.weight.dtype)
        self.neuron, self.rule, self.v_threshold = neuron, neuron.rule, neuron.v_threshold
        for name, values in (("slope", slope), ("current", current)):
            self.register_buffer(name, values.view(-1, 1, 1))

    slope: Tensor
    current: Tensor

    @torch.no_grad()
    def forward(self, x: Tensor, v: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return spikes ``[T, B, C, H, W]``, and the last potential divided by ``a``, ``[B, C, H, W]``."""
        rule, (decay, gain) = self.rule, self.neuron.coefficients()
        threshold, sign = rule.v_threshold / self.slope, self.slope.sign()
        spikes = []
        v = torch.zeros_like(x[0]) if v is None else v
        for x_t in x:
            h = decay * v + gain * (x_t + self.current)
            above = sign * (h - threshold)
            s = above > 0 if rule.strict else above >= 0
            v = h - s * threshold if rule.reset == "subtract" else torch.where(s, rule.v_reset / self.slope, h)
            spikes.append(s.to(x.dtype))
        return torch.stack(spikes), v

    def current_to_fire(self) -> Tensor:
        """Return the current of the neuron, taken back through the norm: ``(i - b) / a``."""
        return self.neuron.current_to_fire() / self.slope - self.current

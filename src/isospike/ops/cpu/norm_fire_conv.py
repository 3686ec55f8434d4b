"""Norm, skip, neurons and the convolution that reads their spikes, which are bits from the first moment on."""

from typing import Any

import torch
from torch import Tensor, nn

from isospike.ops.conv2d import Convolution, geometry_of
from isospike.ops.cpu import norm_fire, packed_conv
from isospike.ops.cpu.packing import Spikes
from isospike.ops.cpu.refusals import no_second_derivative
from isospike.ops.cpu.spike_conv import has_spike_conv
from isospike.ops.firing import Firing, NormFireConvolved
from isospike.ops.rule import FireRule

OF_NORM = 6  # inputs that may need a gradient: x, weight, bias, skip, decay and gain; then weight and bias of conv


def can_run(conv: nn.Conv2d, x: Tensor, skip: Tensor | None, firing: Firing) -> bool:
    """Whether spikes are 0 and 1, and norm and convolution are such as the library runs one after the other."""
    geometry, rule = geometry_of(conv), firing.rule
    return (
        type(rule) is FireRule
        and rule.levels == 1
        and geometry is not None
        and conv.weight.dtype == torch.float32
        and x.shape[2] == conv.in_channels
        and norm_fire.refusal(x, skip, None, firing) is None
        and packed_conv.refusal(x) is None
        and has_spike_conv(conv.weight, geometry)
    )


def norm_fire_conv(
    conv: nn.Conv2d,
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    root_eps: float,
    *,
    skip: Tensor | None,
    firing: Firing,
    keep: bool,
) -> NormFireConvolved:
    """See ``isospike.ops.norm_fire_conv``; here ``can_run`` has said yes. A second derivative is refused."""
    tensors = x, weight, bias, skip, firing.decay, firing.gain, conv.weight, conv.bias
    rest = firing.rule, (eps, root_eps), geometry_of(conv), keep, torch.is_grad_enabled()
    return NormFireConvolved(*_NormFireConv.apply(*tensors, *rest))


class _NormFireConv(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        skip: Tensor | None,
        decay: Any,
        gain: Any,
        conv_weight: Tensor,
        conv_bias: Tensor | None,
        rule: FireRule,
        eps: tuple[float, float],
        geometry: Convolution,
        keep: bool,
        records: bool,
    ) -> tuple[Tensor | None, ...]:
        ctx.set_materialize_grads(False)
        T, B, C, H, W = x.shape
        ctx.fires = norm_fire.BothWays(Firing(decay, gain, rule), eps)
        differentiates = records and any(ctx.needs_input_grad[:OF_NORM])
        wanted = norm_fire.Wanted(keep, records, differentiates, as_bits=True)
        done = ctx.fires.forward(x, weight, bias, skip, None, wanted)
        assert done.s is not None
        shape, stride = torch.Size((T * B, C, H, W)), (C * H * W, 1, W * C, C)
        ctx.convolves = packed_conv.BothWays(shape, stride, geometry)
        y = ctx.convolves.forward(Spikes(done.s, None, done.fired, shape, stride), None, conv_weight, conv_bias)
        ctx.steps = T, B
        ctx.save_for_backward(*done.saved, done.s if ctx.needs_input_grad[OF_NORM] else None, conv_weight)
        ctx.mark_non_differentiable(done.mean, done.var)
        return done.u, y.unflatten(0, (T, B)), done.mean, done.var

    @staticmethod
    def backward(ctx: Any, d_u: Tensor | None, d_y: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise no_second_derivative("norm")
        *saved, kept, conv_weight = ctx.saved_tensors
        of_norm: tuple[Tensor | None, ...] = (None,) * OF_NORM
        d_s = d_weight = d_bias = None
        passes = any(ctx.needs_input_grad[:OF_NORM])
        if d_y is not None:
            needed = passes, *ctx.needs_input_grad[OF_NORM : OF_NORM + 2]
            d_s, d_weight, d_bias = ctx.convolves.backward(kept, conv_weight, d_y.flatten(0, 1), needed)
        if passes:
            d_s = None if d_s is None else d_s.unflatten(0, ctx.steps)
            of_norm = ctx.fires.backward(saved, d_u, d_s, overwrites=True)
        return *of_norm, d_weight, d_bias, None, None, None, None, None

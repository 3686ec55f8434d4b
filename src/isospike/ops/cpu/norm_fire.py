"""Norm, skip and recurrence compiled as one: ``csrc/norm_fire.c``, called on data pointers."""

import ctypes
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from isospike.errors import RunFailed
from isospike.ops.cpu.abi import CBackward, CForward, CNorm, CRule, address, c_rule
from isospike.ops.cpu.leaky_fire import room_for_masks
from isospike.ops.cpu.library import compiled
from isospike.ops.cpu.packing import room_for_bits
from isospike.ops.cpu.refusals import no_second_derivative, refused_dtype, refused_place, refused_rule
from isospike.ops.firing import Firing, NormFired
from isospike.ops.memory import channels_last, empty_like, sum_of_steps


def refusal(x: Tensor, skip: Tensor | None, added: Tensor | None, firing: Firing | None) -> str | None:
    """Why this cannot be run here, as the end of a sentence; None where it can."""
    dtypes = [tensor.dtype for tensor in (x, skip, added) if tensor is not None]
    reason = refused_place(x) or next(filter(None, map(refused_dtype, dtypes)), None)
    return reason if firing is None else reason or refused_rule(firing.rule)


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
    """See ``isospike.ops.norm_fire``; here ``refusal`` has said that it can. A second derivative is refused."""
    decay, gain, rule = (None, None, None) if firing is None else (firing.decay, firing.gain, firing.rule)
    return NormFired(
        *_NormFire.apply(
            x, weight, bias, skip, added, decay, gain, rule, (eps, root_eps), keep, torch.is_grad_enabled()
        )
    )


class _NormFire(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        skip: Tensor | None,
        added: Tensor | None,
        decay: Any,
        gain: Any,
        rule: Any,
        eps: tuple[float, float],
        keep: bool,
        records: bool,
    ) -> tuple[Tensor | None, ...]:
        ctx.set_materialize_grads(False)
        ctx.both = BothWays(None if rule is None else Firing(decay, gain, rule), eps)
        wanted = Wanted(keep, records, records and any(ctx.needs_input_grad), as_bits=False)
        done = ctx.both.forward(x, weight, bias, skip, added, wanted)
        ctx.save_for_backward(*done.saved)
        ctx.mark_non_differentiable(done.mean, done.var)
        return done.u, done.s, done.mean, done.var

    @staticmethod
    def backward(ctx: Any, d_u: Tensor | None, d_s: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise no_second_derivative("norm")
        d_x, d_weight, d_bias, d_skip, *learned = ctx.both.backward(ctx.saved_tensors, d_u, d_s)
        d_added = d_s if ctx.needs_input_grad[4] else None
        return d_x, d_weight, d_bias, d_skip, d_added, *learned, None, None, None, None


class Wanted(NamedTuple):
    """What a forward pass is asked for: whether u comes out, whether anything is recorded for the backward pass, and
    whether that will pass the neurons; whether spikes, of 0 and 1 alone, go out as bits."""

    keep: bool
    records: bool
    differentiates: bool
    as_bits: bool


class Done(NamedTuple):
    """What a forward pass made: ``s`` is None where nothing fires; with its bits comes how many are 1."""

    u: Tensor | None
    s: Tensor | None
    fired: int
    mean: Tensor
    var: Tensor
    saved: tuple[Tensor | None, ...]


class BothWays:
    """A forward pass, and what its backward pass needs besides tensors."""

    def __init__(self, firing: Firing | None, eps: tuple[float, float]) -> None:
        decay, gain, rule = (None, None, None) if firing is None else firing
        self.fire_rule, self.eps = rule, eps
        self.rule = None if rule is None else c_rule(rule, float(cast(float, decay)), float(cast(float, gain)))
        self.learned = isinstance(decay, Tensor), isinstance(gain, Tensor)
        self.skip_shape: torch.Size | None = None

    def forward(
        self, x: Tensor, weight: Tensor, bias: Tensor, skip: Tensor | None, added: Tensor | None, wanted: Wanted
    ) -> Done:
        """Return all that comes out, and the tensors to save."""
        x, C = channels_last(x), x.shape[2]
        weight, bias = weight.contiguous(), bias.contiguous()
        statistics, affine = x.new_empty(2, C), x.new_empty(3, C)
        masks = self._room_for_masks(x) if wanted.differentiates else None
        keeps_u = wanted.records and self.rule is not None and skip is not None and masks is None
        u = empty_like(x) if wanted.keep or keeps_u else None
        s = bits = None
        if wanted.as_bits:
            bits = room_for_bits(x.numel())
        elif self.rule is not None:
            s = empty_like(x)
        skip = None if skip is None else channels_last(skip)
        added = None if added is None else channels_last(added.expand_as(x))
        self.skip_shape = None if skip is None else skip.shape
        call = CForward(
            rule=_address(self.rule), T=x.shape[0], N=x[0].numel(), C=C,
            skip_step=0 if skip is None or skip.shape[0] == 1 else skip[0].numel(),
            norm=_norm(statistics, affine, self.eps, weight, bias),
            x=address(x), skip=address(skip), added=address(added), u=address(u), s=address(s), bits=address(bits),
            masks=address(masks),
        )  # fmt: skip
        _run(compiled().isospike_norm_fire_forward, call)
        mean, var = statistics.clone()
        saved = x, statistics, affine, u if keeps_u else None, masks
        return Done(u if wanted.keep else None, bits if wanted.as_bits else s, call.fired, mean, var, saved)

    def backward(
        self, saved: tuple[Tensor | None, ...], d_u: Tensor | None, d_s: Tensor | None, *, overwrites: bool = False
    ) -> tuple[Tensor | None, ...]:
        """Return the gradients of x, weight, bias, skip, decay and gain; None where there is none.

        Args:
            saved: By the forward pass.
            d_u: Gradient of u.
            d_s: Gradient of the spikes.
            overwrites: Whether its memory may be taken, which neurons of one level can.
        """
        x, statistics, affine, u, masks = saved
        assert x is not None
        assert statistics is not None
        assert affine is not None
        d_u = None if d_u is None else channels_last(d_u)
        d_s = None if d_s is None else channels_last(d_s)
        C = x.shape[2]
        g = cast(Tensor, d_u) if d_s is None else d_s if overwrites else empty_like(x)
        d_x = g if d_s is not None and self.skip_shape is None else empty_like(x)
        d_bias, d_weight = x.new_empty(2, C)
        shares = x.new_empty(2) if any(self.learned) else None
        call = CBackward(
            rule=_address(self.rule), T=x.shape[0], N=x[0].numel(), C=C, norm=_norm(statistics, affine, self.eps),
            x=address(x), u=address(u), d_s=address(d_s), d_u=address(d_u), g=None if d_s is None else address(g),
            d_x=address(d_x), d_bias=address(d_bias), d_weight=address(d_weight), coefficients=address(shares),
            masks=address(masks),
        )  # fmt: skip
        _run(compiled().isospike_norm_fire_backward, call)
        d_decay, d_gain = (None, None) if shares is None else shares
        learned = d_decay if self.learned[0] else None, d_gain if self.learned[1] else None
        d_skip = None if self.skip_shape is None else g if self.skip_shape == g.shape else sum_of_steps(g)
        return d_x, d_weight, d_bias, d_skip, *learned

    def _room_for_masks(self, x: Tensor) -> Tensor | None:
        if self.fire_rule is None or any(self.learned):
            return None
        size = x.shape[0], x[0].numel(), x.shape[2]
        return room_for_masks(self.fire_rule, compiled().isospike_norm_fire_masks, self.rule, *size)


def _norm(
    statistics: Tensor,
    affine: Tensor,
    eps: tuple[float, float],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
) -> CNorm:
    """From ``statistics [2, C]`` and ``affine [3, C]``; the backward needs no more."""
    row = statistics.shape[1] * statistics.element_size()
    mean, rstd = statistics.data_ptr(), affine.data_ptr()
    return CNorm(address(weight), address(bias), *eps, mean, mean + row, rstd, rstd + row, rstd + 2 * row)


def _address(rule: CRule | None) -> int | None:
    return None if rule is None else ctypes.addressof(rule)


def _run(function: Any, call: ctypes.Structure) -> None:
    if function(ctypes.byref(call), torch.get_num_threads()):
        raise RunFailed("there is no memory left for a norm: take a smaller batch")

"""``ops/pointwise.py`` compiled: ``csrc/infer.c``, on maps whose memory is channels-last."""

import ctypes
from dataclasses import replace

import torch
from torch import Tensor

from isospike.errors import RunFailed, ShapeError
from isospike.ops.cpu.abi import MAX_LEVELS, CAffine, CPass, CTerm, address, c_rule
from isospike.ops.cpu.calls import call, channels_last, note_more
from isospike.ops.cpu.library import compiled, library
from isospike.ops.cpu.packing import empty_bits
from isospike.ops.firing import Firing
from isospike.ops.memory import empty_channels_last, laid_out, like_state
from isospike.ops.pointwise import Pointwise, Result, ScaleShift, Span
from isospike.ops.rule import FireRule, IntegerRule
from isospike.surrogates import Rectangle

BLOCK = 1024  # neurons that stay in the cache together: enough to hide what surrounds a loop
SMALL = 1 << 14  # fewer elements than this are done before a second thread has woken up
JOINS = {None: 0, "add": 1, "and": 2, "iand": 3}
NOTHING, RULE, RECTIFIER = range(3)
CHANNELS_LAST = torch.channels_last
FLOAT = 4  # bytes
BITS = {torch.float32: 32, torch.uint8: 8}  # of an element


def can_run(spec: Pointwise, channels: int) -> bool:
    """Whether the library is there, there is anything to do, and it knows the rule and has room for its levels."""
    if library() is None or channels == 0:
        return False
    rule = spec.firing.rule if isinstance(spec.firing, Firing) else None
    return rule is None or type(rule) is IntegerRule or (type(rule) is FireRule and rule.levels <= MAX_LEVELS)


class CompiledPass:
    """One operation, made ready to be called often.

    Args:
        spec: The operation, for which ``can_run`` says yes; all that it holds is float32.
        channels: Channels of its maps; where they are a multiple of 8, spikes may come as bits (``empty_bits``).
        bits: Whether ``out``, of an integer operation that makes 0 and 1 alone, goes out as bits.
    """

    def __init__(self, spec: Pointwise, channels: int, *, bits: bool = False) -> None:
        self.spec, self.channels, self.bits = spec, channels, bits
        self.rows = max(1, BLOCK // channels)
        self.kept: list[Tensor] = []  # what the pointers below point at
        self.template = CPass(block=self.rows * channels, join=JOINS[spec.join])
        self.dtype = torch.uint8 if spec.integer else torch.float32
        self.template.out_width = 1 if bits else BITS[self.dtype]
        for name in ("x", "y"):
            self._fill(getattr(self.template, name).affine, getattr(spec, name))
        self._fill(self.template.affine, spec.affine)
        firing = spec.firing
        self.sum_knows_steps = any(affine is not None and affine.knows_steps for affine in (spec.x, spec.y))
        self.always_steps = spec.knows_steps or isinstance(firing, Firing)
        self.run = compiled().isospike_pass
        if isinstance(firing, Firing):
            rule = firing.rule
            if isinstance(rule, FireRule):
                rule = replace(rule, surrogate=Rectangle())  # nothing is differentiated, and the library knows this one
            self.template.fires, self.template.rule = RULE, c_rule(rule, float(firing.decay), float(firing.gain))
        elif firing is not None:
            self.template.fires = RECTIFIER

    def _fill(self, c_affine: CAffine, affine: ScaleShift | None) -> None:
        if affine is not None:
            scale, shift = (rows.expand(-1, self.channels).repeat(1, self.rows) for rows in affine)
            self.kept += [scale, shift]
            c_affine.scale, c_affine.shift = scale.data_ptr(), shift.data_ptr()
            c_affine.step = scale.shape[1] if affine.knows_steps else 0

    def __call__(
        self, span: Span, x: Tensor, y: Tensor | None = None, z: Tensor | None = None, v: Tensor | None = None
    ) -> Result:
        """As ``eager_pass``."""
        spec, made, (T, B, start, stateful) = self.spec, CPass.from_buffer_copy(self.template), span
        C, (*_, H, W) = self.channels, x.shape
        made.N = N = B * C * H * W
        # The tensors are named until the call is over: two of them may be copies in another memory order.
        for other in (y, z):
            if other is not None and other.shape[2:] != (H, W):
                raise ShapeError(f"maps of {H}x{W} and {other.shape[2]}x{other.shape[3]} pixels cannot be joined")
        x = self._point(made.x, x, N, B)
        y = None if y is None else self._point(made.y, y, N, B)
        z = None if z is None else self._point(made.z, z, N, B)
        sum_steps = T if self.sum_knows_steps or len(x) > B or (y is not None and len(y) > B) else 1
        made.T = steps = T if self.always_steps or (z is not None and len(z) > B) else sum_steps
        made.threads = torch.get_num_threads() if steps * N > SMALL else 1
        if stateful and spec.knows_steps:
            note_more()  # the numbers of another step
        if start and spec.knows_steps:
            for c_affine in (made.x.affine, made.y.affine, made.affine):
                _advance(c_affine, start)
        shape = (steps * B, C, H, W)
        out = empty_bits(shape) if self.bits else empty_channels_last(*shape, self.dtype)
        made.out = out.data_ptr()
        total = after = None
        if spec.keeps_sum:
            total = empty_channels_last(sum_steps * B, C, H, W)
            made.sum, made.sum_step = total.data_ptr(), N if sum_steps > 1 else 0
        if stateful and isinstance(spec.firing, Firing):
            one = x[:B] if x.dtype == torch.float32 else empty_channels_last(B, C, H, W)
            after = like_state(one.unsqueeze(0), spec.firing.rule)
            if v is not None and v.stride() != after.stride():
                note_more()
            v = None if v is None else laid_out(v, after)
            made.before, made.after = address(v), after.data_ptr()
        if call(self.run, ctypes.byref(made)):
            raise RunFailed("there is no memory left for the potentials of a layer: take a smaller batch")
        return Result(out, total, after)

    def _point(self, term: CTerm, x: Tensor, N: int, B: int) -> Tensor:
        """Let a term of the call point at a map; returned is what must stay alive."""
        x = channels_last(x)
        term.data, term.step = x.data_ptr(), N if len(x) > B else 0
        term.width = BITS[x.dtype] if x.shape[1] == self.channels else 1
        return x


def _advance(affine: CAffine, start: int) -> None:
    if affine.step:
        affine.scale += start * affine.step * FLOAT
        affine.shift += start * affine.step * FLOAT

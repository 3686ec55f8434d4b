"""The binary interface of the library: its structs as ctypes, and what its functions take and return.

A library in which a struct has another size is not called (``library.py``).
"""

import ctypes

from torch import Tensor

from isospike.ops.rule import FireRule, Rule

MAX_LEVELS = 16
_POINTER, _INTEGER = ctypes.c_void_p, ctypes.c_int64


class CRule(ctypes.Structure):
    """``struct rule``."""

    _fields_ = [
        *((name, ctypes.c_float) for name in ("decay", "gain", "v_reset", "parameter")),
        *((name, ctypes.c_int32) for name in ("subtract", "strict", "detach", "surrogate", "levels", "integer")),
        ("thresholds", ctypes.c_float * MAX_LEVELS),
    ]


class CNorm(ctypes.Structure):
    """``struct norm``."""

    _fields_ = [
        *((name, _POINTER) for name in ("weight", "bias")),
        *((name, ctypes.c_double) for name in ("eps", "root_eps")),
        *((name, _POINTER) for name in ("mean", "var", "rstd", "a", "b")),
    ]


class CForward(ctypes.Structure):
    """``struct forward``."""

    _fields_ = [
        ("rule", _POINTER),
        *((name, _INTEGER) for name in ("T", "N", "C", "skip_step")),
        ("norm", CNorm),
        *((name, _POINTER) for name in ("x", "skip", "added", "u", "s", "bits")),
        ("fired", _INTEGER),
        ("masks", _POINTER),
    ]


class CBackward(ctypes.Structure):
    """``struct backward``."""

    _fields_ = [
        ("rule", _POINTER),
        *((name, _INTEGER) for name in ("T", "N", "C")),
        ("norm", CNorm),
        *((name, _POINTER) for name in ("x", "u", "d_s", "d_u", "g", "d_x")),
        *((name, _POINTER) for name in ("d_bias", "d_weight", "coefficients", "masks")),
    ]


class CAffine(ctypes.Structure):
    """``struct affine``."""

    _fields_ = [("scale", _POINTER), ("shift", _POINTER), ("step", _INTEGER)]


class CTerm(ctypes.Structure):
    """``struct term``."""

    _fields_ = [("data", _POINTER), ("step", _INTEGER), ("width", _INTEGER), ("affine", CAffine)]


class CPass(ctypes.Structure):
    """``struct pass``."""

    _fields_ = [
        *((name, _INTEGER) for name in ("T", "N", "block", "threads")),
        *((name, CTerm) for name in ("x", "y", "z")),
        ("affine", CAffine),
        ("sum", _POINTER),
        ("sum_step", _INTEGER),
        *((name, _POINTER) for name in ("before", "after", "out")),
        *((name, _INTEGER) for name in ("out_width", "fires", "join")),
        ("rule", CRule),
    ]


class CSpikes(ctypes.Structure):
    """``struct spikes``."""

    _fields_ = [("fired", _POINTER), ("counts", _POINTER)]


class CGeometry(ctypes.Structure):
    """``struct geometry``, of a convolution of spikes."""

    _fields_ = [(name, _INTEGER) for name in ("N", "C", "H", "W", "O", "kernel", "stride", "cell", "table")]


class CMaps(ctypes.Structure):
    """``struct maps``, of a dense convolution."""

    _fields_ = [(name, _INTEGER) for name in ("N", "C", "H", "W", "O", "side")]


class CDense(ctypes.Structure):
    """``struct dense``."""

    _fields_ = [
        *((name, _INTEGER) for name in ("N", "C", "H", "W", "O")),
        *((name, _INTEGER * 2) for name in ("kernel", "stride", "padding", "dilation")),
        ("width", _INTEGER),
    ]


class CWindow(ctypes.Structure):
    """``struct window``."""

    _fields_ = [
        *((name, _INTEGER) for name in ("N", "C", "H", "W")),
        *((name, _INTEGER * 2) for name in ("kernel", "stride", "padding", "outputs")),
        ("width", _INTEGER),
    ]


STRUCTS: dict[str, type[ctypes.Structure]] = {
    "rule": CRule,
    "norm": CNorm,
    "forward": CForward,
    "backward": CBackward,
    "affine": CAffine,
    "term": CTerm,
    "pass": CPass,
    "spikes": CSpikes,
    "geometry": CGeometry,
    "maps": CMaps,
    "dense": CDense,
    "window": CWindow,
}


def c_rule(rule: Rule, decay: float, gain: float) -> CRule:
    """``struct rule`` of a rule; of a surrogate that the library does not know, that of number 0."""
    if isinstance(rule, FireRule):
        kernel = rule.surrogate.kernel
        assert kernel is not None, "refused_rule() was not asked"
        fields = {
            "v_reset": rule.v_reset,
            "parameter": getattr(rule.surrogate, kernel.parameter),
            "subtract": rule.reset == "subtract",
            "strict": rule.strict,
            "surrogate": kernel.c,
            "levels": rule.levels,
        }
        thresholds = (rule.v_threshold, *rule.higher)
    else:
        fields, thresholds = {"subtract": True, "levels": 1, "integer": rule.levels}, (rule.v_threshold,)
    c_rule = CRule(decay=decay, gain=gain, detach=rule.detach_reset, **fields)
    c_rule.thresholds[: len(thresholds)] = thresholds
    return c_rule


def address(x: Tensor | None) -> int | None:
    """Where the first element is; None where there is no tensor."""
    return None if x is None else x.data_ptr()


def declare(lib: ctypes.CDLL) -> None:
    """Tell ctypes what the functions of a library take and return."""
    data, integer = ctypes.c_void_p, ctypes.c_int64
    rule, geometry, spikes, maps, dense, window, forward, backward, whole_pass = map(
        ctypes.POINTER, (CRule, CGeometry, CSpikes, CMaps, CDense, CWindow, CForward, CBackward, CPass)
    )
    takes = {
        "masks": [rule, integer, integer],
        "forward": [rule, integer, integer, data, integer, *[data] * 4, integer],
        "backward": [rule, integer, integer, data, integer, *[data] * 6, integer],
        "backward_masked": [rule, integer, integer, *[data] * 5, integer],
        "block": [],
        "norm_fire_masks": [rule, integer, integer, integer],
        "norm_fire_forward": [forward, integer],
        "norm_fire_backward": [backward, integer],
        "pack_bits": [integer, data, data, integer],
        "unpack_bits": [integer, data, data, integer],
        "pack_bytes": [integer, data, data, integer],
        "bits_of_bytes": [integer, data, data, integer],
        "spike_conv_room": [geometry],
        "spike_conv_pack": [geometry, *[data] * 5, integer],
        "spike_conv": [geometry, spikes, data, data, integer, data, integer, integer],
        "spike_conv_weight": [geometry, spikes, *[data] * 3, integer],
        "winograd_room": [maps],
        "winograd_pack": [maps, data, data, integer, data, data, integer],
        "winograd": [maps, *[data] * 3, integer],
        "dense_room": [dense],
        "dense_pack": [dense, *[data] * 4, integer],
        "dense": [dense, *[data] * 3, integer, integer],
        "mean": [window, data, data, integer],
        "digest": [integer, *[data] * 3, integer],
        "pass": [whole_pass],
        "additions": [integer, data, integer],
        "additions_of_round": [],
        "count_events": [*[integer] * 3, *[data] * 5, integer],
        "lanes": [],
        "machine": [],
    }
    nothing = (
        *("forward", "backward_masked", "unpack_bits", "spike_conv_pack", "winograd_pack", "dense_pack"),
        *("digest", "additions"),
    )
    for name, arguments in takes.items():
        function = getattr(lib, f"isospike_{name}")
        function.argtypes, function.restype = arguments, None if name in nothing else integer

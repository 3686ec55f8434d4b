"""The structs of ``csrc`` as ctypes. A library in which one has another size is not called (``library.py``)."""

import ctypes

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
        *((name, _POINTER) for name in ("x", "skip", "added", "u", "s", "gates")),
    ]


class CBackward(ctypes.Structure):
    """``struct backward``."""

    _fields_ = [
        ("rule", _POINTER),
        *((name, _INTEGER) for name in ("T", "N", "C")),
        ("norm", CNorm),
        *((name, _POINTER) for name in ("x", "u", "d_s", "d_u", "g", "d_x")),
        *((name, _POINTER) for name in ("d_bias", "d_weight", "coefficients", "gates")),
    ]


class CAffine(ctypes.Structure):
    """``struct affine``."""

    _fields_ = [("scale", _POINTER), ("shift", _POINTER), ("step", _INTEGER)]


class CTerm(ctypes.Structure):
    """``struct term``."""

    _fields_ = [("data", _POINTER), ("step", _INTEGER), ("bytes", _INTEGER), ("affine", CAffine)]


class CPass(ctypes.Structure):
    """``struct pass``."""

    _fields_ = [
        *((name, _INTEGER) for name in ("T", "N", "block", "threads")),
        *((name, CTerm) for name in ("x", "y", "z")),
        ("affine", CAffine),
        ("sum", _POINTER),
        ("sum_step", _INTEGER),
        *((name, _POINTER) for name in ("before", "after", "out")),
        *((name, _INTEGER) for name in ("out_bytes", "fires", "join")),
        ("rule", CRule),
    ]


class CSpikes(ctypes.Structure):
    """``struct spikes``."""

    _fields_ = [("fired", _POINTER), ("counts", _POINTER)]


class CGeometry(ctypes.Structure):
    """``struct geometry``, of a convolution of spikes."""

    _fields_ = [(name, _INTEGER) for name in ("N", "C", "H", "W", "O", "kernel", "stride")]


class CDense(ctypes.Structure):
    """``struct dense``."""

    _fields_ = [(name, _INTEGER) for name in ("N", "C", "H", "W", "O")]


class CStrided(ctypes.Structure):
    """``struct strided``."""

    _fields_ = [("x", CDense), *((name, _INTEGER) for name in ("kernel", "height", "width"))]


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
    "dense": CDense,
    "strided": CStrided,
}

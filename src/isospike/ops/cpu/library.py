"""The compiled library: which of its builds runs on this machine, and what of it may be called."""

import ctypes
import os
from functools import cache
from pathlib import Path

from isospike.errors import ConfigError
from isospike.ops.cpu.build import ISAS, library_path, stamp
from isospike.ops.cpu.structs import (
    STRUCTS,
    CBackward,
    CDense,
    CForward,
    CGeometry,
    CPass,
    CRule,
    CSpikes,
    CStrided,
)

VARIABLE = "ISOSPIKE_ISA"
FOLDER = Path(__file__).parent  # hatch_build.py puts the libraries here when the package is installed
AGAIN = "install isospike again (pip install --force-reinstall --no-deps)"


def library() -> ctypes.CDLL | None:
    """The library for this machine; None where ``no_library`` says why there is none.

    Raises:
        ConfigError: ``ISOSPIKE_ISA`` is set, and names no instruction set.
    """
    found = _found()
    return None if isinstance(found, str) else found[1]


def no_library() -> str | None:
    """Why there is no library, and what to do, as the end of a sentence; None where it is there."""
    found = _found()
    return found if isinstance(found, str) else None


def compiled() -> ctypes.CDLL:
    """The library, where it is known to be there."""
    lib = library()
    assert lib is not None, "no_library() was not asked"
    return lib


def instruction_set() -> str | None:
    """For which instruction set the library runs: "plain", "avx2" or "avx512"; None where there is no library.

    It is the highest that the machine has, or the one that ``ISOSPIKE_ISA`` names where that is lower.
    """
    found = _found()
    return None if isinstance(found, str) else found[0]


def lanes() -> int:
    """Floats of a vector in the convolutions of the library; 0 where there is none."""
    lib = library()
    return 0 if lib is None else lib.isospike_lanes()


@cache
def _found() -> tuple[str, ctypes.CDLL] | str:
    """An instruction set and its library, or why there is none."""
    asked = _asked()
    plain = load("plain")
    if isinstance(plain, str):
        return plain
    isa = list(ISAS)[min(plain.isospike_machine(), asked)]
    lib = load(isa)
    return lib if isinstance(lib, str) else (isa, lib)


def _asked() -> int:
    """The place in ``ISAS`` of the highest instruction set that may be taken."""
    name = os.environ.get(VARIABLE)
    if name is not None and name not in ISAS:
        raise ConfigError(f"{VARIABLE} must be one of {', '.join(ISAS)}, got '{name}'")
    return list(ISAS).index(name) if name else len(ISAS) - 1


def load(isa: str) -> ctypes.CDLL | str:
    """The library for one instruction set, which this machine must have, or why there is none.

    One that was compiled from other sources than those of this package is not called.
    """
    path = library_path(isa, FOLDER)
    if not path.is_file():
        return f"the compiled library is missing: install a C compiler, then {AGAIN}"
    try:
        lib = ctypes.CDLL(str(path))
    except OSError:
        return f"the compiled library is missing, as {path.name} does not load here: {AGAIN}"
    if not _is_of_these_sources(lib):
        return f"the compiled library is missing, as {path.name} was compiled from other sources: {AGAIN}"
    _declare(lib)
    return lib


def _is_of_these_sources(lib: ctypes.CDLL) -> bool:
    try:
        found = ctypes.string_at(ctypes.addressof(ctypes.c_char.in_dll(lib, "isospike_stamp")))
        sizes = {name: ctypes.c_int64.in_dll(lib, f"isospike_size_{name}").value for name in STRUCTS}
    except ValueError:  # a name that it does not have
        return False
    return found == stamp().encode() and sizes == {name: ctypes.sizeof(struct) for name, struct in STRUCTS.items()}


def _declare(lib: ctypes.CDLL) -> None:
    """What its functions take and return."""
    data, integer = ctypes.c_void_p, ctypes.c_int64
    rule, geometry, spikes, dense, strided, forward, backward, whole_pass = map(
        ctypes.POINTER, (CRule, CGeometry, CSpikes, CDense, CStrided, CForward, CBackward, CPass)
    )
    takes = {
        "gates": [rule, integer, integer],
        "forward": [rule, integer, integer, data, integer, *[data] * 4, integer],
        "backward": [rule, integer, integer, data, integer, *[data] * 6, integer],
        "backward_gated": [rule, integer, integer, *[data] * 5, integer],
        "block": [],
        "norm_fire_gates": [rule, integer, integer, integer],
        "norm_fire_forward": [forward, integer],
        "norm_fire_backward": [backward, integer],
        "pack_bits": [integer, data, data, integer],
        "unpack_bits": [integer, data, data, integer],
        "pack_bytes": [integer, data, data, integer],
        "bits_of_bytes": [integer, data, data, integer],
        "spike_conv_room": [geometry],
        "spike_conv_pack": [geometry, *[data] * 4, integer],
        "spike_conv": [geometry, spikes, data, data, integer, integer],
        "spike_conv_weight": [geometry, spikes, *[data] * 3, integer],
        "winograd_room": [dense],
        "winograd_pack": [dense, data, data, integer, data, data, integer],
        "winograd": [dense, *[data] * 3, integer],
        "strided_gradient_pack": [strided, *[data] * 3, integer],
        "strided_gradient": [strided, *[data] * 3, integer],
        "pass": [whole_pass],
        "lanes": [],
        "machine": [],
    }
    nothing = ("forward", "backward_gated", "unpack_bits", "spike_conv_pack", "winograd_pack", "strided_gradient_pack")
    for name, arguments in takes.items():
        function = getattr(lib, f"isospike_{name}")
        function.argtypes, function.restype = arguments, None if name in nothing else integer

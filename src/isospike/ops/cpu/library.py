"""The compiled library: which of its builds runs on this machine, and what of it may be called."""

import ctypes
import os
from functools import cache
from pathlib import Path

from isospike.errors import ConfigError
from isospike.ops.cpu.abi import STRUCTS, declare
from isospike.ops.cpu.build import ISAS, library_path, stamp

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
    declare(lib)
    return lib


def _is_of_these_sources(lib: ctypes.CDLL) -> bool:
    try:
        found = ctypes.string_at(ctypes.addressof(ctypes.c_char.in_dll(lib, "isospike_stamp")))
        sizes = {name: ctypes.c_int64.in_dll(lib, f"isospike_size_{name}").value for name in STRUCTS}
    except ValueError:  # a name that it does not have
        return False
    return found == stamp().encode() and sizes == {name: ctypes.sizeof(struct) for name, struct in STRUCTS.items()}

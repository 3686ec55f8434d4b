"""How ``csrc`` becomes a library for every instruction set.

``hatch_build.py`` runs this file before the package can be imported, so it imports the standard library alone.
"""

import hashlib
import os
import platform
import shutil
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).resolve().parent
AVX2 = ("-mavx2", "-mfma", "-mbmi", "-mpopcnt")
# Flags of each, from the lowest to the highest: a machine that has one has all before it (``csrc/build.c`` asks it).
ISAS: dict[str, tuple[str, ...]] = {"plain": (), "avx2": AVX2, "avx512": (*AVX2, "-mavx512f", "-mavx512bw")}
OF_THIS_MACHINE = tuple(ISAS) if platform.machine() in ("x86_64", "AMD64") else ("plain",)
# Products and sums stay apart, so that potentials have the bits of the reference.
FLAGS = (
    *("-O3", "-std=c11", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"),
    *("-fPIC", "-shared", "-fvisibility=hidden"),
)


def library_path(isa: str, folder: Path = HERE) -> Path:
    """The file of the library for one instruction set."""
    return folder / f"_cpu_{isa}.so"


def stamp() -> str:
    """Hash sources and flags: a library compiled from others must not be called."""
    digest = hashlib.sha256()
    for path in (*sorted((HERE / "csrc").glob("*.[ch]")), Path(__file__)):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def find_compiler() -> list[str] | None:
    """The C compiler that ``CC`` names, or the first that is installed; None where the library cannot be compiled."""
    found = os.environ.get("CC") or next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
    return found.split() if found and platform.system() == "Linux" else None


def compile_libraries(
    compiler: Sequence[str], folder: Path = HERE, extra: Sequence[str] = (), isas: Sequence[str] = OF_THIS_MACHINE
) -> str | None:
    """Compile one library for each instruction set.

    Args:
        compiler: The command.
        folder: Where the libraries go.
        extra: Further flags.
        isas: For which instruction sets.

    Returns:
        None; or the command that failed and what it said, and no library is left then.
    """
    with ThreadPoolExecutor() as pool:
        errors = list(pool.map(lambda isa: _compile(compiler, isa, folder, extra), isas))
    error = next(filter(None, errors), None)
    for isa in ISAS if error else ():
        library_path(isa, folder).unlink(missing_ok=True)
    return error


def _compile(compiler: Sequence[str], isa: str, folder: Path, extra: Sequence[str]) -> str | None:
    sources, stamped = sorted(map(str, (HERE / "csrc").glob("*.c"))), f'-DISOSPIKE_STAMP="{stamp()}"'
    output = ("-o", str(library_path(isa, folder)), "-lm")
    errors = []
    for threads in (("-fopenmp",), ()):  # a compiler may lack OpenMP
        command = [*compiler, *FLAGS, *ISAS[isa], stamped, *threads, *extra, *sources, *output]
        try:
            done = subprocess.run(command, capture_output=True, text=True)
        except OSError as error:  # CC names what is not there, or cannot be run
            return f"{compiler[0]} cannot be run: {error.strerror}"
        if done.returncode == 0:
            return None
        errors.append(f"{' '.join(command)}: {done.stderr}")
    return errors[0]

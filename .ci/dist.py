"""Builds what ``pip`` installs, into ``dist/``, and tries each in an empty environment that has no compiler.

    python .ci/dist.py

The wheel with the compiled libraries is for every Linux on x86-64 whose C library is new enough (``auditwheel`` puts
into the name from which on). It uses PyTorch's copy of OpenMP, which is loaded first: a second one in a process would
start threads of its own. Where that wheel does not fit, pip takes the one without libraries, which runs on plain
PyTorch.
"""

import os
import runpy
import shutil
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).parent.parent
DIST = ROOT / "dist"
CROSS = "aarch64-linux-gnu-gcc"
TRIAL = """
import isospike as iso, torch
from isospike.ops.cpu.library import no_library
print(iso.__version__, "reference" if no_library() else "library")
model = iso.create_model("ms_resnet8").eval()
assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 10)
"""


def run(*words: str | Path, **variables: str) -> str:
    """Run a command with these variables besides the environment; its output. It must succeed."""
    done = subprocess.run(
        [str(word) for word in words], env={**os.environ, **variables}, stdout=subprocess.PIPE, text=True
    )
    if done.returncode:
        sys.exit(f"{done.stdout}\n{' '.join(map(str, words))} failed")
    return done.stdout


def build() -> tuple[Path, Path, Path]:
    """The source archive, the wheel with libraries, the wheel without; a compiler must be there."""
    shutil.rmtree(DIST, ignore_errors=True)
    with tempfile.TemporaryDirectory() as raw:
        run(sys.executable, "-m", "build", "--outdir", raw, ROOT, CI="1")  # CI: without a compiler it fails
        (source,), (wheel,) = Path(raw).glob("*.tar.gz"), Path(raw).glob("*.whl")
        repair = (sys.executable, "-m", "auditwheel", "repair", "--exclude", "libgomp.so.1", "-w", DIST, wheel)
        run(*repair, PATH=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
        (compiled,) = DIST.glob("*.whl")
        shutil.copy(source, DIST)
    run(sys.executable, "-m", "build", "--wheel", "--outdir", DIST, ROOT, HATCH_BUILD_NO_HOOKS="true")
    (pure,) = DIST.glob("*-none-any.whl")
    return DIST / source.name, compiled, pure


class Trial:
    """An empty environment without a compiler, with PyTorch."""

    def __init__(self, folder: str) -> None:
        venv.create(folder, with_pip=True)
        self._python = Path(folder) / "bin" / "python"
        self._install("torch")

    def __call__(self, package: Path, expected: str) -> None:
        """Install one, and run a network; what it says that it runs on must be ``expected``."""
        self._install("--force-reinstall", "--no-deps", package)
        self._install(package)  # what it depends on
        said = self._run("-I", "-c", TRIAL).split()
        if said[1] != expected:
            sys.exit(f"{package.name} runs on {said[1]}, and it should on {expected}")
        print(f"{package.name}: {package.stat().st_size / 1e6:.1f} MB, version {said[0]}, runs on {said[1]}")

    def _install(self, *words: str | Path) -> None:
        self._run("-m", "pip", "install", "--quiet", "-c", ROOT / "constraints.txt", *words)

    def _run(self, *words: str | Path) -> str:
        return run(self._python, *words, PATH=str(self._python.parent), CC="false", CI="")


def check_aarch64() -> str:
    """Compile the library for ARM where a cross compiler is there; it is not run."""
    build = runpy.run_path(str(ROOT / "src/isospike/ops/cpu/build.py"))
    if shutil.which(CROSS) is None:
        return f"not checked: {CROSS} is not installed"
    with tempfile.TemporaryDirectory() as folder:
        error = build["compile_libraries"]([CROSS], Path(folder), isas=("plain",))
    if error is not None:
        sys.exit(error)
    return "the library compiles (it was not run)"


if __name__ == "__main__":
    print(f"aarch64: {check_aarch64()}")
    source, compiled, pure = build()
    with tempfile.TemporaryDirectory() as folder:
        trial = Trial(folder)
        trial(compiled, "library")
        trial(pure, "reference")
        trial(source, "reference")

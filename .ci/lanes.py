"""Runs tests of the compiled library again: with lower instruction sets, under the sanitizers of the compiler, on ARM.

    python .ci/lanes.py            every lane
    python .ci/lanes.py address    one of them

Lanes run side by side, one to a core. Each says what it runs, or why this machine cannot. The exit code is 1 where a
test fails.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import arm

from isospike.ops.cpu.build import ISAS, compile_libraries
from isospike.ops.cpu.library import instruction_set, no_library

ROOT = Path(__file__).resolve().parent.parent
# What oneDNN and PyTorch call the same instruction sets: they, too, are to do with less.
OTHERS = {
    "plain": {"ONEDNN_MAX_CPU_ISA": "SSE41", "ATEN_CPU_CAPABILITY": "default"},
    "avx2": {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"},
    "avx512": {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE", "ATEN_CPU_CAPABILITY": "avx512"},
}
# Kernels and networks; the files whose tests run with every instruction set of the machine anyhow are left out.
NETWORKS = ["test_backends.py", "test_masks.py", "test_norm_fire_conv.py", "test_packed_conv.py"]
NETWORKS += ["test_pointwise.py", "test_unit.py"]
KERNELS = ["test_empty.py", "test_masks.py", "test_pointwise.py", "test_spike_conv.py", "test_winograd.py"]
KERNELS += ["test_dense_conv.py", "test_norm_fire_conv.py", "test_packed_conv.py"]
ARM = [*KERNELS, "test_norm_fire.py", "test_leaky_fire.py"]
# Flags of gcc, the file of the runtime, what it is told, and the tests.
SANITIZERS: dict[str, tuple[list[str], str, dict[str, str], list[str]]] = {
    "address": (
        ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"],
        "libasan.so",
        {"ASAN_OPTIONS": "detect_leaks=0:max_malloc_fill_size=1073741824"},
        [*KERNELS, "test_inference_replay.py"],
    ),
    "threads": (
        ["-fsanitize=thread", str(ROOT / ".ci/gomp.c")],
        "libtsan.so",
        {"TSAN_OPTIONS": "exitcode=66:halt_on_error=1:ignore_noninstrumented_modules=1", "ISOSPIKE_TEST_THREADS": "4"},
        [*KERNELS, "test_norm_fire.py", "test_leaky_fire.py"],
    ),
}


def pytest(files: list[str], environment: dict[str, str], python: Sequence[str] = (sys.executable,)) -> int:
    """Its exit code."""
    # What a sanitizer says before it ends the process would be lost if pytest held it back: --capture=sys.
    options = ["-n", "0", "--capture=sys", "-m", "not triton"]
    command = [*python, "-m", "pytest", *options, *(str(ROOT / "tests" / file) for file in files)]
    # CI: a library that is not there, or of other sources, is a failure and no reason to leave its tests out.
    return subprocess.run(command, cwd=ROOT, env={**os.environ, "CI": "1", **environment}).returncode


def isa_lane(name: str) -> int:
    """The library, oneDNN and PyTorch with this instruction set."""
    best = instruction_set()
    if best is None or list(ISAS).index(name) > list(ISAS).index(best):
        print(f"lane {name}: not run, as {f'this machine has {best}' if best else no_library()}", flush=True)
        return int(best is None and bool(os.environ.get("CI")))
    environment = {"ISOSPIKE_ISA": name, **OTHERS[name]}
    print(f"lane {name}: {' '.join(NETWORKS)} with {environment}", flush=True)
    return pytest(NETWORKS, environment)


def sanitizer_lane(name: str) -> int:
    """The library, compiled with a sanitizer of gcc and called under it."""
    flags, library, environment, files = SANITIZERS[name]
    runtime = runtime_of(library)
    if runtime is None:
        print(f"lane {name}: not run, as gcc has no {library} here", flush=True)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        package = copied_package(Path(folder))
        error = compile_libraries(["gcc"], package / "ops/cpu", ["-O1", "-g", *flags], isas=tuple(ISAS)[: HIGHEST + 1])
        if error is not None:
            print(f"lane {name}: {error}", flush=True)
            return 1
        print(f"lane {name}: {' '.join(files)} under {' '.join(flags)}", flush=True)
        # Beside the C++ library, whose exceptions (PyTorch's errors) a sanitizer wants to see from the start.
        preloaded = " ".join(filter(None, (runtime, runtime_of("libstdc++.so"))))
        return pytest(files, {"PYTHONPATH": folder, "LD_PRELOAD": preloaded, **environment})


def arm_lane() -> int:
    """The library for ARM (aarch64, vectors of NEON), by qemu: what it computes, and nothing about its speed."""
    missing = [tool for tool in arm.TOOLS if shutil.which(tool) is None]
    if missing:
        print(f"lane arm: not run, as {', '.join(missing)} is not installed", flush=True)
        return 0
    folder = Path(sys.prefix) / ".arm"
    try:
        arm.make(folder)
    except arm.NoPackages as error:
        print(f"lane arm: not run, as {error}", flush=True)
        return 0
    with tempfile.TemporaryDirectory() as packages:
        package = copied_package(Path(packages))
        error = compile_libraries(["aarch64-linux-gnu-gcc"], package / "ops/cpu", isas=["plain"])
        if error is not None:
            print(f"lane arm: {error}", flush=True)
            return 1
        print(f"lane arm: {' '.join(ARM)} under qemu", flush=True)
        return pytest(ARM, {"PYTHONPATH": f"{packages}:{folder / 'site'}"}, arm.command(folder))


def copied_package(folder: Path) -> Path:
    """The package without its libraries, in this folder: a place for others."""
    package = folder / "isospike"
    return shutil.copytree(ROOT / "src/isospike", package, ignore=shutil.ignore_patterns("_cpu*.so", "__pycache__"))


def runtime_of(library: str) -> str | None:
    """The file of a sanitizer's runtime; None where gcc is missing or has none."""
    if shutil.which("gcc") is None:
        return None
    found = subprocess.run(["gcc", f"-print-file-name={library}"], capture_output=True, text=True).stdout.strip()
    return found if Path(found).is_absolute() else None


def run_apart(name: str) -> int:
    """Run a lane in a process of its own, and say all at once what it said."""
    done = subprocess.run([sys.executable, __file__, name], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    print(done.stdout, end="", flush=True)
    return done.returncode


HIGHEST = list(ISAS).index(instruction_set() or "plain")
LANES = {name: partial(isa_lane, name) for name in ISAS} | {name: partial(sanitizer_lane, name) for name in SANITIZERS}
LANES["arm"] = arm_lane

if __name__ == "__main__":
    asked = sys.argv[1:] or list(LANES)
    unknown = [name for name in asked if name not in LANES]
    if unknown:
        sys.exit(f"no lane is called {unknown[0]}; choose from: {', '.join(LANES)}")
    if len(asked) == 1:
        sys.exit(LANES[asked[0]]() > 0)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        sys.exit(max(pool.map(run_apart, asked)) > 0)

"""Compiles src/isospike/ops/csrc into a library beside it when the package is built or installed.

Without a C compiler the package is built all the same, and runs the eager reference.
"""

import os
import platform
import shutil
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SOURCES, TARGET = "src/isospike/ops/csrc/*.c", Path("src/isospike/ops/_cpu.so")
# Products and sums stay apart, so that potentials have the bits of the reference.
FLAGS = ["-O3", "-std=c11", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-fPIC", "-shared"]


class CompileKernels(BuildHookInterface):
    """Called by hatchling before it packs the wheel, editable or not."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add the library to the wheel, where it can be made."""
        if self.target_name != "wheel" or not self._compile():
            return
        build_data["artifacts"].append(str(TARGET))
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{sysconfig.get_platform().replace('-', '_').replace('.', '_')}"

    def _compile(self) -> bool:
        root = Path(self.root)
        compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
        target, sources = root / TARGET, sorted(map(str, root.glob(SOURCES)))
        target.unlink(missing_ok=True)
        if platform.system() != "Linux" or compiler is None:
            self.app.display_warning("isospike: no C compiler found, so the package will run its eager reference")
            return False
        for threads in (["-fopenmp"], []):  # a compiler may lack OpenMP
            command = [*compiler.split(), *FLAGS, *threads, *sources, "-o", str(target), "-lm"]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode == 0:
                return True
        self.app.display_warning(f"isospike: {' '.join(command)} failed, so the package will run its eager reference")
        self.app.display_warning(done.stderr)
        return False

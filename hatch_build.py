"""Compiles src/isospike/ops/cpu/csrc into libraries beside it when the package is built or installed.

Without a C compiler the package is built all the same, and runs the eager reference; where CI is set, it is not.
"""

import os
import runpy
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

LIBRARIES = "src/isospike/ops/cpu/_cpu_*.so"


class CompileKernels(BuildHookInterface):
    """Called by hatchling before it packs the wheel, editable or not."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add the libraries to the wheel, where they can be made."""
        if self.target_name != "wheel" or not self._compile():
            return
        build_data["artifacts"].append(LIBRARIES)
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{sysconfig.get_platform().replace('-', '_').replace('.', '_')}"

    def _compile(self) -> bool:
        build = runpy.run_path(str(Path(self.root) / "src/isospike/ops/cpu/build.py"))
        compiler = build["find_compiler"]()
        error = "no C compiler was found" if compiler is None else build["compile_libraries"](compiler)
        if error is None:
            return True
        if os.environ.get("CI"):
            raise RuntimeError(f"isospike cannot be compiled: {error}")
        self.app.display_warning(f"isospike will run its eager reference: {' '.join(error.split())}")
        return False

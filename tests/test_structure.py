"""The house: imports go down, files are small, registries are complete, importing is cheap."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import isospike

PACKAGE = Path(isospike.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))

# A file imports from lower levels, or from its own unit (a module, or a folder with all that is in it).
LEVELS = {
    "errors": 0,
    "torch_version": 0,
    "registry": 1,
    "optional": 1,
    "seeding": 1,
    "text": 0,
    "writing": 1,
    "own_rows": 2,
    "spec": 2,
    "schedules": 3,
    "inputs": 2,
    "events": 4,
    "limits": 1,
    "surrogates": 2,
    "ops": 3,
    "neurons": 4,
    "layers": 5,
    "objectives": 6,
    "optimizers": 6,
    "malloc": 1,
    "memory": 1,
    "finite": 6,
    "processes": 6,
    "evaluation": 10,
    "residual": 6,
    "graph": 7,
    "fused_training": 8,
    "inference": 8,
    "models": 9,
    "conversion": 10,
    "export": 10,
    "analysis": 11,
    "drawing": 10,
    "config": 10,
    "data": 5,
    "run_folder": 11,
    "recipes": 11,
    "report": 12,
    "weights": 12,
    "train": 13,
    "predictor": 13,
    "streaming": 14,
    "recording_predictor": 15,
    "sweep": 14,
    "bench": 14,
    "serve": 15,
    "cli": 16,
    "__main__": 17,
}


def unit_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports_of(path: Path) -> set[str]:
    """Units of ours that a file imports, wherever in the file."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = [node.module or ""]
            if node.module == "isospike":
                names = [f"isospike.{alias.name}" for alias in node.names]
        found |= {name.split(".")[1] for name in names if name.startswith("isospike.")}
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_down(path):
    unit = unit_of(path)
    if unit == "__init__":
        return
    for target in imports_of(path) - {unit}:
        assert LEVELS[target] < LEVELS[unit], f"{unit} (level {LEVELS[unit]}) imports {target} ({LEVELS[target]})"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_files_stay_small(path):
    assert len(path.read_text().splitlines()) <= 400


def test_only_the_residual_folder_knows_a_topology_by_name():
    names = {*isospike.TOPOLOGIES, "srm"}
    for path in FILES:
        # CIFAR-100 has a class called plain, and the compiled library is built for a machine called so.
        if unit_of(path) in ("residual", "data") or path.match("ops/cpu/build.py"):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Compare | ast.Dict | ast.Tuple | ast.List | ast.Set | ast.match_case):
                strings = {n.value for n in ast.walk(node) if isinstance(n, ast.Constant) and isinstance(n.value, str)}
                assert not strings & names, f"{path}:{node.lineno} asks for a topology by name"


def test_every_public_name_exists():
    assert all(hasattr(isospike, name) for name in isospike.__all__)


def test_importing_is_silent_and_quick_and_needs_no_optional_package(tmp_path):
    """Beside importing PyTorch, which it does first: the machine may be busy, and PyTorch is not ours."""
    code = (
        "import os, sys, time\n"
        "for name in ('pyarrow', 'sklearn', 'tensorboard', 'vl_convert', 'kornia', 'triton', 'scipy', 'matplotlib',"
        "    'huggingface_hub', 'h5py', 'hdf5plugin', 'torchvision', 'onnx', 'onnxruntime', 'nir'):\n"
        "    sys.modules[name] = None\n"
        "begun = time.process_time()\n"
        "import torch\n"
        "torch_is_there = time.process_time()\n"
        "import isospike\n"
        "ours = time.process_time() - torch_is_there\n"
        f"open({str(tmp_path / 'share')!r}, 'a').write(f'{{ours / (torch_is_there - begun)}}\\n')"
    )
    for _ in range(2):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert min(map(float, (tmp_path / "share").read_text().split())) < 0.5

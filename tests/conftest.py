import ctypes
import importlib.util
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch._C._functorch import is_functorch_wrapped_tensor
from torch.utils._device import _device_constructors

from isospike.ops import memory, use_backend
from isospike.ops.cpu import library
from isospike.ops.cpu.build import ISAS

# Triton decides when it is imported whether its kernels are compiled or run in Python.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

# Whichever browser is here; its engine is the same.
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)

EVENTS_EXTRA = ("h5py", "hdf5plugin")
ONNX_EXTRA = ("onnx", "onnxruntime")

# The instruction sets that the library may be run with here, from the lowest on.
BEST = library.instruction_set()
HAS = list(ISAS)[: list(ISAS).index(BEST) + 1] if BEST else []

# Two test processes share two cores; one thread each also makes every sum the same from run to run.
torch.set_num_threads(int(os.environ.get("ISOSPIKE_TEST_THREADS", "1")))  # several for the lane of races


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real images named by ISOSPIKE_DATA; the tests marked ``data`` are left out without it."""
    return Path(os.environ["ISOSPIKE_DATA"]).resolve()


def absent() -> dict[str, str]:
    """Markers of tests that cannot run here, and why."""
    found = {
        "data": None if os.environ.get("ISOSPIKE_DATA") else "ISOSPIKE_DATA names no folder of real images",
        "compiled": library.no_library(),
        "triton": None if importlib.util.find_spec("triton") else "Triton is not installed",
        "cuda": None if torch.cuda.is_available() else "PyTorch sees no GPU",
        "events": None if all(map(importlib.util.find_spec, EVENTS_EXTRA)) else "h5py or hdf5plugin is not installed",
        "onnx": None if all(map(importlib.util.find_spec, ONNX_EXTRA)) else "onnx or onnxruntime is not installed",
        "nir": None if importlib.util.find_spec("nir") else "nir is not installed",
        "compiler": None if shutil.which(os.environ.get("CXX", "g++")) else "there is no C++ compiler",
        "browser": None if BROWSER else "neither chromium nor chrome is installed",
    }
    return {marker: reason for marker, reason in found.items() if reason is not None}


LEFT_OUT = pytest.StashKey[dict[str, int]]()  # how many tests of each marker


def pytest_configure(config: pytest.Config) -> None:
    """In continuous integration a library that was not compiled is a failure."""
    config.stash[LEFT_OUT] = {}
    if os.environ.get("CI") and library.no_library():
        raise pytest.UsageError(f"nothing is tested, as {library.no_library()}")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what this machine cannot run."""
    by_marker = {marker: [item for item in items if item.get_closest_marker(marker)] for marker in absent()}
    config.stash[LEFT_OUT].update({marker: len(found) for marker, found in by_marker.items()})
    left_out = {item for found in by_marker.values() for item in found}
    config.hook.pytest_deselected(items=[item for item in items if item in left_out])
    items[:] = [item for item in items if item not in left_out]
    if hasattr(config, "workeroutput"):  # a process of xdist, which has no terminal
        config.workeroutput["left_out"] = config.stash[LEFT_OUT]


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take over what a process of xdist left out: all of them collect the same tests."""
    node.config.stash[LEFT_OUT].update(getattr(node, "workeroutput", {}).get("left_out", {}))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Name what was left out."""
    for marker, count in config.stash[LEFT_OUT].items():
        if count:
            terminalreporter.line(f"not run: {count} tests marked {marker}, as {absent()[marker]}")


@pytest.fixture(autouse=True)
def _poisoned_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory that ``isospike.ops`` asks for holds NaN, or bits that are all 1, so that a forgotten cell shows."""

    def poisoned(allocate: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        def allocate_for_ops(*args: Any, **kwargs: Any) -> torch.Tensor:
            tensor = allocate(*args, **kwargs)
            if sys._getframe(1).f_globals.get("__name__", "").startswith("isospike.ops"):
                poison(tensor)
            return tensor

        return allocate_for_ops

    _device_constructors()  # "with torch.device(...)" knows these functions by identity, once and for all
    for name in ("empty", "empty_like", "empty_strided"):
        monkeypatch.setattr(torch, name, poisoned(getattr(torch, name)))
    monkeypatch.setattr(torch.Tensor, "new_empty", poisoned(torch.Tensor.new_empty))
    plain_memory = memory._plain_memory
    monkeypatch.setattr(memory, "_plain_memory", lambda size: poison_array(plain_memory(size)))


def poison(tensor: torch.Tensor) -> None:
    """Without an operation of PyTorch and without a look at the storage, since the planner counts these."""
    if type(tensor) is torch.Tensor and tensor.device.type == "cpu" and not is_functorch_wrapped_tensor(tensor):
        ctypes.memset(tensor.data_ptr(), 0xFF, tensor.numel() * tensor.element_size())


def poison_array(array: np.ndarray) -> np.ndarray:
    """Likewise."""
    array.view(np.uint8).fill(0xFF)
    return array


@pytest.fixture(params=HAS)
def each_isa(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a test with the library for every instruction set that this machine has."""
    lib = library.load(request.param)
    monkeypatch.setattr(library, "_found", lambda: (request.param, lib))


@pytest.fixture
def found_anew() -> Iterator[None]:
    """Look for the library again in this test and behind it."""
    library._found.cache_clear()
    yield
    library._found.cache_clear()


@pytest.fixture(params=["auto", "reference"])
def each_backend(request: pytest.FixtureRequest) -> Iterator[None]:
    """Run a test with "auto", which takes the backend where it can, and with the reference alone."""
    with use_backend(request.param):
        yield

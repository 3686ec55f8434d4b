import importlib.util
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from isospike.ops import cpu_library, use_backend
from isospike.ops.cpu_build import ISAS

# Triton decides when it is imported whether its kernels are compiled or run in Python.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

# Whichever browser is here; its engine is the same.
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)

# The instruction sets that the library may be run with here, from the lowest on.
BEST = cpu_library.instruction_set()
HAS = list(ISAS)[: list(ISAS).index(BEST) + 1] if BEST else []

# Two test processes share two cores; one thread each also makes every sum the same from run to run.
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real images named by ISOSPIKE_DATA; the tests marked ``data`` are left out without it."""
    return Path(os.environ["ISOSPIKE_DATA"]).resolve()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what this machine cannot run: it has no real images, browser or Triton, or had no C compiler."""
    absent = {
        "data": not os.environ.get("ISOSPIKE_DATA"),
        "compiled": cpu_library.library() is None,
        "triton": importlib.util.find_spec("triton") is None,
        "browser": BROWSER is None,
    }
    left_out = [i for i in items if any(missing and i.get_closest_marker(what) for what, missing in absent.items())]
    items[:] = [item for item in items if item not in left_out]
    config.hook.pytest_deselected(items=left_out)


@pytest.fixture(params=HAS)
def each_isa(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a test with the library for every instruction set that this machine has."""
    lib = cpu_library.load(request.param)
    monkeypatch.setattr(cpu_library, "_found", lambda: (request.param, lib))


@pytest.fixture
def found_anew() -> Iterator[None]:
    """Look for the library again in this test and behind it."""
    cpu_library._found.cache_clear()
    yield
    cpu_library._found.cache_clear()


@pytest.fixture(params=["auto", "reference"])
def each_backend(request: pytest.FixtureRequest) -> Iterator[None]:
    """Run a test with "auto", which takes the backend where it can, and with the reference alone."""
    with use_backend(request.param):
        yield

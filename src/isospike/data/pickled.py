"""Reading pickled arrays of foreign files without letting them run anything."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np

from isospike.errors import DataError


def _latin1(text: str, encoding: str) -> bytes:
    """How Python 3 writes bytes for Python 2; no other codec is looked up."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"it asks for the codec '{encoding}'")
    return text.encode("latin1")


_RECONSTRUCT = np.empty(0).__reduce__()[0]
# All that CIFAR files name, the original ones and those that Python 3 wrote anew.
# Anything else is a call that a data file has no business to make.
_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy._core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): _latin1,
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which a data file may not")
        return _ALLOWED[module, name]


def read_arrays(path: Path) -> dict[str, Any]:
    """The mapping in a pickled file of Python 2 or 3, its keys as text.

    Raises:
        DataError: no such file, damaged, not a mapping, or it names anything but numpy arrays.
    """
    try:
        with path.open("rb") as file:
            content = _Unpickler(file, encoding="bytes").load()
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist") from error
    except (pickle.UnpicklingError, EOFError, OSError, ValueError, TypeError, KeyError, IndexError, AttributeError,
            MemoryError, OverflowError, ImportError) as error:  # fmt: skip
        raise DataError(f"{path} was not read as pickled arrays: {error}") from error
    if not isinstance(content, dict):
        raise DataError(f"{path} must hold a mapping with 'data' and labels, not a {type(content).__name__}")
    return {
        key.decode("ascii", "replace") if isinstance(key, bytes) else str(key): value for key, value in content.items()
    }

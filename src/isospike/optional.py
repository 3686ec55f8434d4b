"""Packages that an extra brings."""

import importlib
from typing import Any

from isospike.errors import MissingExtra


def import_optional(module: str, *, extra: str, purpose: str) -> Any:
    """Import ``module``.

    Raises:
        MissingExtra: its package is not installed. An import that fails inside the package is not hidden.
    """
    package = module.split(".")[0]
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != package:
            raise
        raise MissingExtra(package, extra, purpose) from error

"""A data set by its configuration."""

from collections.abc import Callable
from typing import Any

from isospike.config import DataSpec, register_spec
from isospike.data import cifar, digits, folder, synthetic
from isospike.data.dataset import Dataset
from isospike.errors import DataError
from isospike.registry import Registry

LOADERS: Registry[Callable[[Any], Dataset]] = Registry("kind of data")
LOADERS.register("digits", digits.load)
LOADERS.register("cifar10", cifar.load)
LOADERS.register("cifar100", cifar.load)
LOADERS.register("folder", folder.load)
LOADERS.register("synthetic", synthetic.load)


def load_dataset(spec: DataSpec) -> Dataset:
    """Both splits of a data set, its labels checked.

    Args:
        spec: The ``data`` part of a configuration.

    Raises:
        DataError: files are missing, in another layout, unreadable or mislabelled; names the file.
        MissingExtra: reading the files needs a package that is not installed.
    """
    try:
        return LOADERS[spec.kind](spec)
    except OSError as error:  # of folders; whoever reads a file names it himself
        raise DataError(f"the data in {error.filename} cannot be read: {error.strerror}") from error


def register_data(spec: type[DataSpec], load: Callable[[Any], Dataset]) -> None:
    """A new kind of data: from now on ``data: {kind: ...}`` of a run may be it.

    Args:
        spec: Its keys; ``kind`` is a ``Literal`` of its names.
        load: From a ``spec`` to the data set.

    Raises:
        ConfigError: ``kind`` is no ``Literal``.
        ValueError: its name is taken.
    """
    for kind in register_spec(spec):
        LOADERS.register(kind, load)

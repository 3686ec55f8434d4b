"""The kinds of data that a run may name: one row each."""

from abc import ABC, abstractmethod
from dataclasses import replace

from pydantic import PositiveFloat

from isospike.data.dataset import Dataset
from isospike.errors import ConfigError, DataError
from isospike.spec import Kinds, Spec


class DataSpec(Spec, ABC):
    """The ``data`` of a run. A row's docstring says what it reads, its fields are the options, ``load`` is the loader.

    Four fields mean the same in every row that has them: ``dir`` is the folder that ``--data-dir`` names, ``workers``
    is the number of processes that decode images, ``cache`` is a folder for what can be made again, and none of them
    changes a number that comes out; ``images`` is the data that a row makes its own of, whose folder ``--data-dir``
    then names.

    Every row takes ``mean`` and ``std``, a number for each channel of images in [0, 1], to normalise by instead of
    its own: those of a network that was trained elsewhere.
    """

    kind: str
    mean: tuple[float, ...] | None = None
    std: tuple[PositiveFloat, ...] | None = None

    @abstractmethod
    def load(self) -> Dataset:
        """Read both splits, with their labels checked.

        Raises:
            DataError: files are missing, in another layout, unreadable or mislabelled; names the file.
            MissingExtra: reading the files needs a package that is not installed.
        """


DATA: Kinds[DataSpec] = Kinds("kind of data")


def load_dataset(spec: DataSpec) -> Dataset:
    """Load a data set by its configuration; raises as ``DataSpec.load``, also where a folder cannot be read.

    Raises:
        ConfigError: ``mean`` or ``std`` is not one number for each channel.
    """
    try:
        dataset = spec.load()
    except OSError as error:  # of folders; whoever reads a file names it himself
        raise DataError(f"the data in {error.filename} cannot be read: {error.strerror}") from error
    given = {key: value for key in ("mean", "std") if (value := getattr(spec, key)) is not None}
    for key, values in given.items():
        if len(values) != dataset.channels:
            raise ConfigError(
                f"data.{key} is a number for each channel, of which {dataset.name} has {dataset.channels}, got "
                f"{list(values)}"
            )
    return replace(dataset, **given)

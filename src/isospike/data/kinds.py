"""The kinds of data that a run may name: one row each."""

from abc import ABC, abstractmethod

from isospike.data.dataset import Dataset
from isospike.errors import DataError
from isospike.spec import Kinds, Spec


class DataSpec(Spec, ABC):
    """The ``data`` of a run. A row's docstring says what it reads, its fields are the options, ``load`` is the loader.

    Four fields mean the same in every row that has them: ``dir`` is the folder that ``--data-dir`` names, ``workers``
    is the number of processes that decode images, ``cache`` is a folder for what can be made again, and none of them
    changes a number that comes out; ``images`` is the data that a row makes its own of, whose folder ``--data-dir``
    then names.
    """

    kind: str

    @abstractmethod
    def load(self) -> Dataset:
        """Read both splits, with their labels checked.

        Raises:
            DataError: files are missing, in another layout, unreadable or mislabelled; names the file.
            MissingExtra: reading the files needs a package that is not installed.
        """


DATA: Kinds[DataSpec] = Kinds("kind of data")


def load_dataset(spec: DataSpec) -> Dataset:
    """Load a data set by its configuration; raises as ``DataSpec.load``, also where a folder cannot be read."""
    try:
        return spec.load()
    except OSError as error:  # of folders; whoever reads a file names it himself
        raise DataError(f"the data in {error.filename} cannot be read: {error.strerror}") from error

"""A data set by its configuration."""

from isospike.config import CifarData, DataSpec, DigitsData, FolderData
from isospike.data import cifar, digits, folder, synthetic
from isospike.data.dataset import Dataset
from isospike.errors import DataError


def load_dataset(spec: DataSpec) -> Dataset:
    """Both splits of a data set, its labels checked.

    Args:
        spec: The ``data`` part of a configuration.

    Raises:
        DataError: files are missing, in another layout, unreadable or mislabelled; names the file.
        MissingExtra: reading the files needs a package that is not installed.
    """
    try:
        return _load(spec)
    except OSError as error:  # of folders; whoever reads a file names it himself
        raise DataError(f"the data in {error.filename} cannot be read: {error.strerror}") from error


def _load(spec: DataSpec) -> Dataset:
    if isinstance(spec, DigitsData):
        return digits.load(spec)
    if isinstance(spec, CifarData):
        return cifar.load(spec)
    if isinstance(spec, FolderData):
        return folder.load(spec)
    return synthetic.load(spec)

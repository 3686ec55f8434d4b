"""Images: where they come from, how they are read, augmented and put into batches."""

from isospike.data.augment import Augment
from isospike.data.balance import class_weights
from isospike.data.dataset import Dataset
from isospike.data.load import load_dataset
from isospike.data.loader import Batch, Loader
from isospike.data.transfer import to_device

__all__ = ["Augment", "Batch", "Dataset", "Loader", "class_weights", "load_dataset", "to_device"]

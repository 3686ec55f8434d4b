"""Images: where they come from, how they are read, augmented and put into batches."""

from isospike.data.augment import Augment
from isospike.data.balance import class_weights
from isospike.data.dataset import Dataset
from isospike.data.images import ArrayImages, FileImages, Images
from isospike.data.kinds import load_dataset, register_data
from isospike.data.loader import Batch, Loader
from isospike.data.transfer import to_device

__all__ = [
    "ArrayImages",
    "Augment",
    "Batch",
    "Dataset",
    "FileImages",
    "Images",
    "Loader",
    "class_weights",
    "load_dataset",
    "register_data",
    "to_device",
]

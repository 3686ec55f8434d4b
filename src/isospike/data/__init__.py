"""Images: where they come from, how they are read, augmented and put into batches."""

# Importing a row registers it.
from isospike.data import cifar, class_folders, digits, dvs_gesture, folder, nmnist, simulated_camera, synthetic  # noqa: F401
from isospike.data.augment import Augment, AugmentSpec
from isospike.data.balance import ClassWeights, class_weights
from isospike.data.dataset import Dataset
from isospike.data.images import ArrayImages, FileImages, Images
from isospike.data.kinds import DATA, DataSpec, load_dataset
from isospike.data.loader import Batch, Loader
from isospike.data.recordings import EventData, FrameStacks, Recording
from isospike.data.transfer import to_device

__all__ = [
    "DATA",
    "ArrayImages",
    "Augment",
    "AugmentSpec",
    "Batch",
    "ClassWeights",
    "DataSpec",
    "Dataset",
    "EventData",
    "FileImages",
    "FrameStacks",
    "Images",
    "Loader",
    "Recording",
    "class_weights",
    "load_dataset",
    "to_device",
]

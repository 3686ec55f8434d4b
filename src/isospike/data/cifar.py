"""CIFAR-10 and CIFAR-100 in the three layouts that people have.

Source: Krizhevsky 2009, "Learning Multiple Layers of Features from Tiny Images".
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import NonNegativeInt

from isospike.data.dataset import Dataset, checked_labels
from isospike.data.decode import Keep
from isospike.data.folder import class_names, existing, held, is_hidden, read_split, test_folder
from isospike.data.images import ArrayImages, FileImages
from isospike.data.kinds import DATA, DataSpec
from isospike.data.parquet import read_parquet
from isospike.data.pickled import read_arrays
from isospike.errors import DataError

SIZE = 32
Split = Literal["train", "test"]
Both = tuple[ArrayImages, ArrayImages]


@dataclass(frozen=True)
class Cifar:
    """One of the two sets: where its original files lie, and its constants."""

    name: str
    classes: tuple[str, ...]
    pickle_folder: str
    pickle_files: dict[Split, tuple[str, ...]]
    label_keys: tuple[str, ...]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


CIFAR10 = Cifar(
    name="cifar10",
    classes=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
    pickle_folder="cifar-10-batches-py",
    pickle_files={"train": tuple(f"data_batch_{n}" for n in range(1, 6)), "test": ("test_batch",)},
    label_keys=("label", "labels"),
    mean=(0.4914, 0.4822, 0.4465),
    std=(0.2470, 0.2435, 0.2616),
)

# fmt: off
CIFAR100_CLASSES = (
    "apple", "aquarium_fish", "baby", "bear", "beaver", "bed", "bee", "beetle", "bicycle", "bottle", "bowl", "boy",
    "bridge", "bus", "butterfly", "camel", "can", "castle", "caterpillar", "cattle", "chair", "chimpanzee", "clock",
    "cloud", "cockroach", "couch", "crab", "crocodile", "cup", "dinosaur", "dolphin", "elephant", "flatfish", "forest",
    "fox", "girl", "hamster", "house", "kangaroo", "keyboard", "lamp", "lawn_mower", "leopard", "lion", "lizard",
    "lobster", "man", "maple_tree", "motorcycle", "mountain", "mouse", "mushroom", "oak_tree", "orange", "orchid",
    "otter", "palm_tree", "pear", "pickup_truck", "pine_tree", "plain", "plate", "poppy", "porcupine", "possum",
    "rabbit", "raccoon", "ray", "road", "rocket", "rose", "sea", "seal", "shark", "shrew", "skunk", "skyscraper",
    "snail", "snake", "spider", "squirrel", "streetcar", "sunflower", "sweet_pepper", "table", "tank", "telephone",
    "television", "tiger", "tractor", "train", "trout", "tulip", "turtle", "wardrobe", "whale", "willow_tree", "wolf",
    "woman", "worm",
)
# fmt: on

CIFAR100 = Cifar(
    name="cifar100",
    classes=CIFAR100_CLASSES,
    pickle_folder="cifar-100-python",
    pickle_files={"train": ("train",), "test": ("test",)},
    label_keys=("fine_label", "fine_labels", "label"),
    mean=(0.5071, 0.4865, 0.4409),
    std=(0.2673, 0.2564, 0.2762),
)

SETS = {cifar.name: cifar for cifar in (CIFAR10, CIFAR100)}


@DATA.add
class CifarData(DataSpec):
    """CIFAR in any of its layouts below ``dir``; ``workers`` processes decode it once, into memory."""

    kind: Literal["cifar10", "cifar100"]
    dir: str | None = None
    workers: NonNegativeInt = 0

    def load(self) -> Dataset:
        """Load both splits into memory, from whichever layout is found below ``self.dir``.

        Raises:
            DataError: no layout found, or a file in it is damaged or mislabelled; names it.
            MissingExtra: the files are parquet and pyarrow is not installed.
        """
        cifar = SETS[self.kind]
        root = existing(self.dir)
        layouts: tuple[Callable[[Cifar, Path, int], tuple[Both, str] | None], ...] = (_pickles, _parquet, _folders)
        for layout in layouts:
            found = layout(cifar, root, self.workers)
            if found is not None:
                (train, test), note = found
                return Dataset(cifar.name, train, test, cifar.classes, 3, SIZE, cifar.mean, cifar.std, note)
        raise DataError(
            f"no {cifar.name} in {root}, which holds {held(root)}: expected {cifar.pickle_folder}/ (the original "
            "python files), train-*.parquet and test-*.parquet (Hugging Face), or train/<class>/ and test/<class>/ "
            "with images"
        )


def _pickles(cifar: Cifar, root: Path, workers: int) -> tuple[Both, str] | None:
    """Return the original files, in ``root`` itself or in their own folder below it."""
    first = cifar.pickle_files["train"][0]
    folder = next((f for f in (root, root / cifar.pickle_folder) if (f / first).is_file()), None)
    if folder is None:
        return None
    return (_pickled_split(cifar, folder, "train"), _pickled_split(cifar, folder, "test")), ""


def _pickled_split(cifar: Cifar, folder: Path, split: Split) -> ArrayImages:
    images, labels = [], []
    for name in cifar.pickle_files[split]:
        content = read_arrays(folder / name)
        data = content.get("data")
        own = _sequence(next((content[key] for key in cifar.label_keys if key in content), None))
        if not isinstance(data, np.ndarray) or own is None or data.ndim != 2 or data.shape[1] != 3 * SIZE * SIZE:
            raise DataError(f"{folder / name} is not a {cifar.name} file: it must hold 'data' [N, 3072] and labels")
        if data.dtype != "uint8" or len(own) != len(data):
            raise DataError(f"{folder / name}: {len(data)} images of {data.dtype} and {len(own)} labels do not fit")
        images.append(torch.from_numpy(data.copy()).view(-1, 3, SIZE, SIZE))
        labels += own
    return ArrayImages(torch.cat(images), checked_labels(labels, cifar.classes, f"{folder} ({split})"))


def _sequence(labels: Any) -> list[Any] | None:
    """Return the labels as a list; they may be an array. None where they are something else."""
    if isinstance(labels, np.ndarray) and labels.ndim == 1:
        return labels.tolist()
    return labels if isinstance(labels, list) else None


def _parquet(cifar: Cifar, root: Path, workers: int) -> tuple[Both, str] | None:
    """Return Hugging Face's files, in ``root`` or any folder below it."""
    shards = {split: _shards(root, split) for split in ("train", "test")}
    if not shards["train"]:
        return None
    if not shards["test"]:
        raise DataError(f"{root} holds train-*.parquet but no test-*.parquet")
    (train, lossy), (test, _) = (_parquet_split(cifar, shards[split], workers) for split in ("train", "test"))
    return (train, test), "JPEG copy" if lossy else ""


def _shards(root: Path, split: Split) -> list[Path]:
    """Return the files of a split, in order; hidden ones and those in hidden folders are none."""
    found = sorted(root.glob(f"**/{split}-*.parquet"))
    return [path for path in found if not any(map(is_hidden, (path, *path.relative_to(root).parents)))]


def _parquet_split(cifar: Cifar, shards: list[Path], workers: int) -> tuple[ArrayImages, bool]:
    """Return one split, and whether its images are JPEG."""
    sources: list[bytes] = []
    names: list[str] = []
    labels: list[Any] = []
    for shard in shards:
        encoded, own = read_parquet(shard, cifar.label_keys)
        names += [f"{shard} row {row}" for row in range(len(encoded))]
        sources += encoded
        labels += own
    checked = checked_labels(labels, cifar.classes, ", ".join(map(str, shards)))
    files = FileImages(sources, checked, Keep(SIZE, cifar.name), workers, names)
    return files.in_memory(), sources[0].startswith(b"\xff\xd8")


def _folders(cifar: Cifar, root: Path, workers: int) -> tuple[Both, str] | None:
    """Find image folders, named after the classes or numbered like the labels."""
    test = test_folder(root)
    if not (root / "train").is_dir() or test is None:
        return None
    numbers = tuple(str(number) for number in range(len(cifar.classes)))
    found = set(class_names(root / "train"))
    if not found <= {*numbers, *cifar.classes}:
        raise DataError(
            f"{root / 'train'} holds {held(root / 'train')}, which are no classes of {cifar.name}: images of your own "
            f"are read with --set 'data={{kind: folder, size: {SIZE}, test_resize: {SIZE + SIZE // 8}}}', and the "
            "recipes folder_* are made for them"
        )
    names = numbers if found <= set(numbers) else cifar.classes
    train, held_out = (read_split(split, names, Keep(SIZE, cifar.name), workers) for split in (root / "train", test))
    lossy = any(path.suffix.lower() in (".jpg", ".jpeg") for path in train.sources if isinstance(path, Path))
    return (train.in_memory(), held_out.in_memory()), "JPEG copy" if lossy else ""

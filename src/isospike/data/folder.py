"""ImageNet's layout: ``{train,val}/<class>/<image>``."""

from pathlib import Path
from typing import Literal, Self

from pydantic import NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from isospike.data.dataset import Dataset, checked_labels
from isospike.data.decode import CentreCrop, RandomResizedCrop
from isospike.data.images import Decode, FileImages
from isospike.data.kinds import DATA, DataSpec
from isospike.errors import DataError

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm"})
TEST_NAMES = ("val", "test")
# Of ImageNet's training images, as everybody uses them.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@DATA.add
class FolderData(DataSpec):
    """``dir/{train,val}/<class>/<image>``, decoded by ``workers`` processes whenever they are needed.

    Training takes a random crop of ``crop_area`` of the image (smallest and largest share), scaled to ``size``;
    testing takes the centre, of ``test_size`` (None: ``size``), of the image whose shorter side was scaled to
    ``test_resize``.
    """

    kind: Literal["folder"]
    dir: str | None = None
    workers: NonNegativeInt = 2
    size: PositiveInt = 224
    test_size: PositiveInt | None = None
    test_resize: PositiveInt = 256
    crop_area: tuple[PositiveFloat, PositiveFloat] = (0.08, 1.0)

    @model_validator(mode="after")
    def _ranges(self) -> Self:
        name = "size" if self.test_size is None else "test_size"
        if self.test_resize < getattr(self, name):
            raise ValueError(f"test_resize={self.test_resize} is smaller than {name}={getattr(self, name)}")
        if not self.crop_area[0] <= self.crop_area[1] <= 1:
            raise ValueError(f"crop_area is (smallest, largest) share of the image, at most 1, got {self.crop_area}")
        return self

    def load(self) -> Dataset:
        """Load both splits; classes are the folders below ``train``, in alphabetical order.

        Raises:
            DataError: no such folder, no ``train`` or ``val``, a class without images, a file that is no image.
        """
        root = existing(self.dir)
        if not (root / "train").is_dir() or test_folder(root) is None:
            raise DataError(f"{root} must hold train/<class>/<image> and val/<class>/<image>, it holds {held(root)}")
        classes = class_names(root / "train")
        train = RandomResizedCrop(self.size, self.crop_area)
        test = CentreCrop(self.test_size or self.size, self.test_resize)
        return Dataset(
            name=root.name,
            train=read_split(root / "train", classes, train, self.workers),
            test=read_split(test_folder(root) or root, classes, test, self.workers),
            classes=classes,
            channels=3,
            size=self.size,
            mean=MEAN,
            std=STD,
            test_size=test.size,
            test_resize=test.resize,
        )


def existing(folder: str | None) -> Path:
    """Return the folder of the data, which must exist.

    Raises:
        DataError: none was named, or it does not exist.
    """
    if folder is None:
        raise DataError("this data set is read from files: name their folder with --data-dir")
    root = Path(folder)
    if not root.is_dir():
        raise DataError(f"the data folder {root} does not exist")
    return root


def held(folder: Path) -> str:
    """Return the first few names in a folder, for an error."""
    names = sorted(path.name for path in folder.iterdir())
    return (", ".join(names[:5]) + (", ..." if len(names) > 5 else "")) or "nothing"


def test_folder(root: Path) -> Path | None:
    """Return ``val`` or ``test`` below ``root``, whichever there is."""
    return next((root / name for name in TEST_NAMES if (root / name).is_dir()), None)


def class_names(split: Path) -> tuple[str, ...]:
    """Return names of the class folders of a split, in order; hidden folders are none.

    Raises:
        DataError: fewer than two.
    """
    names = tuple(sorted(path.name for path in split.iterdir() if path.is_dir() and not is_hidden(path)))
    if len(names) < 2:
        raise DataError(f"{split} must hold a folder for each of at least 2 classes, it holds {held(split)}")
    return names


def is_hidden(path: Path) -> bool:
    """Return whether other programs keep it for themselves, as ``.ipynb_checkpoints`` and ``.DS_Store``."""
    return path.name.startswith(".")


def read_split(split: Path, classes: tuple[str, ...], decode: Decode, workers: int) -> FileImages:
    """Return every image below ``split/<class>``.

    Raises:
        DataError: a folder that is no class, a class without images, or a file that is not named as an image.
    """
    for path in sorted(split.iterdir()):
        if path.is_dir() and path.name not in classes and not is_hidden(path):
            raise DataError(f"{path} is not one of the {len(classes)} classes ({', '.join(classes[:3])}, ...)")
    paths: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        found = _images(split / name)
        paths += found
        labels += [label] * len(found)
    return FileImages(paths, checked_labels(labels, classes, str(split)), decode, workers)


def _images(folder: Path) -> list[Path]:
    """List the image files of one class, in order; hidden files are not looked at."""
    if not folder.is_dir():
        raise DataError(f"the class folder {folder} does not exist")
    paths = sorted(path for path in folder.iterdir() if not is_hidden(path))
    for path in paths:
        if path.suffix.lower() not in SUFFIXES:
            raise DataError(f"{path} is not an image; expected {', '.join(sorted(SUFFIXES))}")
    return paths

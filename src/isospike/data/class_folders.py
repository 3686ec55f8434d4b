"""Event data sets of one folder per class, which have no split of their own.

Source: Li et al. 2017, Frontiers in Neuroscience 11:309 (CIFAR10-DVS); Orchard et al. 2015, arXiv:1507.07629
(N-Caltech101).
"""

import re
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

from isospike.data.kinds import DATA
from isospike.data.recordings import EventData, Recording
from isospike.errors import DataError
from isospike.events.files import DataFile, by_end

CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
Split = Literal["first90", "last100", "tet70"]


def is_test(names: list[str], split: Split) -> list[bool]:
    """Return which recordings of a class are for testing.

    Args:
        names: Theirs, each with one number.
        split: "first90" trains on the first nine tenths of the class in the alphabetical order of their names, so that
            10 precedes 2, as SpikingJelly and what builds on it; "last100" tests on the hundred highest numbers;
            "tet70" trains on the first seven tenths by number, as the code of TET (Deng et al. 2022,
            arXiv:2202.11946) prepares them.
    """
    by_number = sorted(names, key=lambda name: int(re.findall(r"\d+", name)[-1]))
    trained = {
        "first90": sorted(names)[: -(-len(names) * 9 // 10)],
        "last100": by_number[:-100],
        "tet70": by_number[: len(names) * 7 // 10],
    }
    own = set(trained[split])
    return [name not in own for name in names]


def in_class_folders(
    found: Mapping[tuple[str, ...], DataFile], classes: Sequence[str], split: Split
) -> list[Recording]:
    """Return the recordings of classes that have a folder each.

    Args:
        found: The files by class and name.
        classes: In the order of their labels.
        split: As of ``is_test``.
    """
    recordings = []
    for label, name in enumerate(classes):
        members = [file for (of, _), file in found.items() if of == name]
        tests = is_test([file.name.rsplit("/", 1)[-1] for file in members], split)
        recordings += [Recording(file, label, test) for file, test in zip(members, tests, strict=True)]
    return recordings


@DATA.add
class CIFAR10DVSData(EventData):
    """CIFAR10-DVS in its folders or zips below ``dir``, split as ``split`` says: see ``is_test``."""

    kind: Literal["cifar10_dvs"]
    split: Split = "first90"

    sensor: ClassVar = (128, 128)
    format: ClassVar = "aedat2"
    layout: ClassVar = "<class>/cifar10_<class>_<number>.aedat of ten classes, or airplane.zip and the nine others"
    origin: ClassVar = (
        "https://figshare.com/articles/dataset/CIFAR10-DVS_New/4724671 (MD5 of the zips in the order of their names: "
        "0afd5c4bf9ae06af762a77b180354fdd 8438dfeba3bc970c94962d995b1b9bdd a9c207c91c55b9dc2002dc21c684d785 "
        "52c63c677c2b15fa5146a8daf4d56687 b6bf21f6c04d21ba4e23fc3e36c8a4a3 f379ebdf6703d16e0a690782e62639c3 "
        "cad6ed91214b1c7388a5f6ee56d08803 e7cbbf77bec584ffbf913f00e682782a 41c7bd7d6b251be82557c6cce9a7d5c9 "
        "89f3922fd147d9aeff89e76a2b0b70a7)"
    )

    def recordings(self, files: list[DataFile]) -> tuple[tuple[str, ...], list[Recording]]:
        """Find the recordings of ten classes.

        Raises:
            DataError: the name of a file says another class than its folder, or there is no such class.
        """
        found = by_end(files, r"([a-z]+)/(cifar10_[a-z]+_\d+)\.aedat")
        for (folder, name), file in found.items():
            said = name.split("_")[1]
            if said != folder or folder not in CIFAR10:
                raise DataError(
                    f"{file}: its folder says the class '{folder}' and its name '{said}'; both must be one of "
                    f"{', '.join(CIFAR10)}"
                )
        return CIFAR10, in_class_folders(found, CIFAR10, self.split)


@DATA.add
class NCaltech101Data(EventData):
    """N-Caltech101 in its folders or zip below ``dir``, split as ``split`` says: see ``is_test``."""

    kind: Literal["ncaltech101"]
    split: Literal["first90"] = "first90"

    sensor: ClassVar = (240, 180)
    format: ClassVar = "bits40"
    layout: ClassVar = "Caltech101/<class>/image_<number>.bin, or Caltech101.zip"
    origin: ClassVar = "https://www.garrickorchard.com/datasets/n-caltech101 (MD5 66201824eabb0239c7ab992480b50ba3)"

    def recordings(self, files: list[DataFile]) -> tuple[tuple[str, ...], list[Recording]]:
        """Find the recordings of one class per folder, in alphabetical order."""
        found = by_end(files, r"Caltech101/([^/]+)/(image_\d+)\.bin")
        classes = tuple(sorted({name for name, _ in found}))
        return classes, in_class_folders(found, classes, self.split)

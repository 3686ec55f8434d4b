"""Event data sets of one folder per class, which have no split of their own.

Source: Li et al. 2017, Frontiers in Neuroscience 11:309 (CIFAR10-DVS); Orchard et al. 2015, arXiv:1507.07629
(N-Caltech101).
"""

import re
from typing import ClassVar, Literal

from isospike.data.kinds import DATA
from isospike.data.recordings import EventData, Recording
from isospike.events.files import DataFile

Split = Literal["first90", "last100"]


def is_test(names: list[str], split: Split) -> list[bool]:
    """Return which recordings of a class are for testing.

    Args:
        names: Theirs, each with one number.
        split: "first90" trains on the first nine tenths of the class in the alphabetical order of their names, so that
            10 precedes 2, as SpikingJelly and what builds on it; "last100" tests on the hundred highest numbers.
    """
    if split == "last100":
        last = sorted(names, key=lambda name: int(re.findall(r"\d+", name)[-1]))[-100:]
        return [name in set(last) for name in names]
    first = set(sorted(names)[: -(-len(names) * 9 // 10)])
    return [name not in first for name in names]


def in_class_folders(
    files: list[DataFile], pattern: re.Pattern[str], split: Split
) -> tuple[tuple[str, ...], list[Recording]]:
    """Find classes in alphabetical order and their recordings; ``pattern`` has the class and the name of one."""
    by_class: dict[str, dict[str, DataFile]] = {}
    for file in files:
        if found := pattern.search(file.name):
            by_class.setdefault(found[1], {})[found[2]] = file
    recordings = []
    for label, name in enumerate(sorted(by_class)):
        members = by_class[name]
        tests = is_test(list(members), split)
        recordings += [Recording(file, label, test) for file, test in zip(members.values(), tests, strict=True)]
    return tuple(sorted(by_class)), recordings


@DATA.add
class CIFAR10DVSData(EventData):
    """CIFAR10-DVS in its folders or zips below ``dir``, split as ``split`` says: see ``is_test``."""

    kind: Literal["cifar10_dvs"]
    split: Split = "first90"

    sensor: ClassVar = (128, 128)
    format: ClassVar = "aedat2"
    layout: ClassVar = "<class>/cifar10_<class>_<number>.aedat of ten classes, or airplane.zip and the nine others"
    origin: ClassVar = "https://figshare.com/articles/dataset/CIFAR10-DVS_New/4724671"

    def recordings(self, files: list[DataFile]) -> tuple[tuple[str, ...], list[Recording]]:
        """Find the recordings of ten classes."""
        return in_class_folders(files, re.compile(r"(?:^|/)([a-z]+)/(cifar10_\1_\d+)\.aedat$"), self.split)


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
        """Find the recordings of one class per folder."""
        return in_class_folders(files, re.compile(r"(?:^|/)Caltech101/([^/]+)/(image_\d+)\.bin$"), self.split)

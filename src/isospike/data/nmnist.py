"""N-MNIST: MNIST's digits, moved along three saccades before an event camera.

Source: Orchard et al. 2015, arXiv:1507.07629.
"""

from typing import ClassVar, Literal

from isospike.data.kinds import DATA
from isospike.data.recordings import EventData, Recording
from isospike.events.files import DataFile, by_end


@DATA.add
class NMNISTData(EventData):
    """N-MNIST in its folders or zips below ``dir``; the split is that of its folders."""

    kind: Literal["nmnist"]

    sensor: ClassVar = (34, 34)
    format: ClassVar = "bits40"
    layout: ClassVar = "Train/<digit>/<number>.bin and Test/<digit>/<number>.bin, or Train.zip and Test.zip"
    origin: ClassVar = (
        "https://www.garrickorchard.com/datasets/n-mnist "
        "(MD5 20959b8e626244a1b502305a9e6e2031 and 69ca8762b2fe404d9b9bad1103e97832)"
    )

    def recordings(self, files: list[DataFile]) -> tuple[tuple[str, ...], list[Recording]]:
        """Find the recordings of ten digits."""
        found = by_end(files, r"(Train|Test)/([0-9])/(\d+)\.bin")
        recordings = [Recording(file, int(digit), split == "Test") for (split, digit, _), file in found.items()]
        return tuple(str(digit) for digit in range(10)), recordings

"""DVS128 Gesture: eleven gestures of 29 people in three kinds of light, several trials in a file.

Source: Amir et al. 2017, "A Low Power, Fully Event-Based Gesture Recognition System", CVPR.
"""

import re
from typing import ClassVar, Literal

from isospike.data.kinds import DATA
from isospike.data.recordings import EventData, Recording
from isospike.errors import DataError
from isospike.events.files import DataFile, by_end, contents
from isospike.text import brief

CLASSES = (
    "hand_clapping", "right_hand_wave", "left_hand_wave", "right_arm_clockwise", "right_arm_counter_clockwise",
    "left_arm_clockwise", "left_arm_counter_clockwise", "arm_roll", "air_drums", "air_guitar", "other_gestures",
)  # fmt: skip
LISTS = {"trials_to_train.txt": False, "trials_to_test.txt": True}
NAME = r"(trials_to_(?:train|test)\.txt|user\d+_\w+?(?:\.aedat|_labels\.csv))"
TRIAL = re.compile(r"(\d{1,2}),(\d{1,18}),(\d{1,18})")


@DATA.add
class DVSGestureData(EventData):
    """DVS128 Gesture in its folder or archive below ``dir``; the split is that of its lists, by people."""

    kind: Literal["dvs_gesture"]

    sensor: ClassVar = (128, 128)
    format: ClassVar = "aedat3"
    layout: ClassVar = (
        "DvsGesture/user<number>_<light>.aedat, user<number>_<light>_labels.csv, trials_to_train.txt and "
        "trials_to_test.txt, or DvsGesture.tar.gz"
    )
    origin: ClassVar = "https://research.ibm.com/interactive/dvsgesture (MD5 8a5c71fb11e24e5ca5b11866ca6c00a1)"

    def recordings(self, files: list[DataFile]) -> tuple[tuple[str, ...], list[Recording]]:
        """Find every trial of the files in the two lists.

        Raises:
            DataError: a listed file or its labels are missing, or labels are no labels.
        """
        by_name = {name: file for (name,), file in by_end(files, NAME).items()}
        if not all(name in by_name for name in LISTS):
            return CLASSES, []
        small = [file for name, file in by_name.items() if name in LISTS or name.endswith("_labels.csv")]
        texts = {file.name.rsplit("/", 1)[-1]: content.decode("latin1") for file, content in contents(small)}
        found = []
        for list_name, test in LISTS.items():
            for name in texts[list_name].split():
                labels = f"{name.removesuffix('.aedat')}_labels.csv"
                for needed in (name, labels):
                    if needed not in by_name:
                        raise DataError(f"{by_name[list_name]} lists {brief(name)}, and there is no {brief(needed)}")
                found += _trials(by_name[name], texts[labels], str(by_name[labels]), test)
        return CLASSES, found


def _trials(file: DataFile, text: str, where: str, test: bool) -> list[Recording]:
    """Read a trial per line behind the first: class from 1 on, first and last microsecond."""
    trials = []
    for number, line in enumerate(text.splitlines()[1:], 2):
        found = TRIAL.fullmatch(line.strip())
        label, start, end = map(int, found.groups()) if found else (0, 0, 0)
        if not 1 <= label <= len(CLASSES) or start >= end:
            raise DataError(f"{where}: line {number} is no trial (class from 1 to 11, start, end): {brief(line)}")
        trials.append(Recording(file, label - 1, test, start, end))
    return trials

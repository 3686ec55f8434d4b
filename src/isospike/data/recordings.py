"""Recordings of event cameras as data sets: what every such row shares."""

import hashlib
import os
import warnings
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal, Self

import numpy as np
import torch
from pydantic import PositiveInt, model_validator
from torch import Tensor

from isospike.data.dataset import Dataset, checked_labels
from isospike.data.folder import existing, held
from isospike.data.images import Images
from isospike.data.kinds import DataSpec
from isospike.errors import DataError, IsospikeWarning
from isospike.events import (
    Events,
    bins_of_count,
    bins_of_time,
    decode,
    first_of_count,
    first_of_time,
    integrate,
)
from isospike.events.cache import FrameFile, cached_frames, digests, key_of
from isospike.events.files import DataFile, contents, list_files
from isospike.events.frames import Bounds, Frames

BINS = {"count": bins_of_count, "time": bins_of_time}
WINDOWS = {"count": first_of_count, "time": first_of_time}
POLARITIES = 2


@dataclass(frozen=True)
class Recording:
    """One sample of a data set.

    Args:
        file: Where it is.
        label: Its class.
        test: Whether it is for testing.
        start: First microsecond of it in the file, by the times in the file; None: from its first event on.
        end: The microsecond behind its last; None: up to the last event.
    """

    file: DataFile
    label: int
    test: bool
    start: int | None = None
    end: int | None = None

    def cut(self, events: Events) -> Events:
        """Return its part of the events of the file.

        Raises:
            DataError: it has none: the times that the labels say are not those of the file.
        """
        ends = [None if t is None else int(np.searchsorted(events.t, t)) for t in (self.start, self.end)]
        part = events[slice(*ends)]
        if len(events) and not len(part):
            raise DataError(
                f"{self.file}: its labels name a recording from {self.start:,} to {self.end:,} us, where it has no "
                f"event: it runs from {events.t[0]:,} to {events.t[-1]:,} us"
            )
        return part

    def __str__(self) -> str:
        return str(self.file) if self.start is None else f"{self.file} from {self.start:,} us on"


@dataclass(frozen=True)
class FrameStacks(Images):
    """Recordings as frames, read from a cache batch by batch."""

    frames: FrameFile
    numbers: Tensor  # of the recordings in the cache, int64 [N]
    labels: Tensor

    def batches(self, order: Sequence[Tensor], seed: int) -> Iterator[Tensor]:
        """Yield counts ``[T, B, 2, H, W]`` for each tensor of indices, uint8 or wider; nothing is drawn.

        Raises:
            DataError: the cache is damaged.
        """
        for indices in order:
            stacks = [self.frames[number] for number in self.numbers[indices].tolist()]
            batch = np.stack(stacks, axis=1) if stacks else np.zeros((0,), np.uint8)
            yield torch.from_numpy(batch if batch.dtype == np.uint8 else batch.astype(np.int32))

    def prepared_as(self, other: Images) -> Images:
        """Return these frames: they have been cut."""
        return self


class FrameData(DataSpec):
    """Options of all sets of recordings, whether a camera made them or a simulation.

    ``T`` frames of a recording are cut by ``bins``: each with as many events, or as many microseconds. With ``window``
    they are of so many events or microseconds from its beginning on, one every ``stride`` (None: as many), and what
    comes behind the last is left out. They are ``size`` pixels high and wide, None for the longer side of the sensor; a
    smaller one takes several pixels of the sensor together. Frames are kept in the folder ``cache``, None for one of
    the user's, and made again where the recordings or any option has changed.
    """

    T: PositiveInt = 10
    bins: Literal["count", "time"] = "count"
    window: PositiveInt | None = None
    stride: PositiveInt | None = None
    size: PositiveInt | None = None
    cache: str | None = None

    @model_validator(mode="after")
    def _stride_of_windows(self) -> Self:
        if self.stride is not None and self.window is None:
            raise ValueError(f"stride={self.stride} is between windows: it goes with a window")
        return self

    @property
    def cache_folder(self) -> Path:
        """Where frames are kept."""
        return Path(self.cache) if self.cache is not None else user_cache()

    def integrated(self, events: Events, name: str) -> Frames:
        """Make the frames of one recording.

        Raises:
            DataError: it is too short; says its ``name``.
        """
        square = on_square(events, self.size or max(events.sensor or (1, 1)))
        try:
            return integrate(square, self._bounds(square))
        except DataError as error:
            raise DataError(f"{name}: {error}") from error

    def _bounds(self, events: Events) -> Bounds:
        if self.window is None:
            return BINS[self.bins](events, self.T)
        return WINDOWS[self.bins](events, self.T, self.window, self.stride)

    @property
    def cutting(self) -> dict[str, int | str | None]:
        """What decides the frames of a recording."""
        return {key: getattr(self, key) for key in ("T", "bins", "window", "stride", "size")}

    def dataset(
        self, name: str, classes: tuple[str, ...], train: FrameStacks, test: FrameStacks, note: str = ""
    ) -> Dataset:
        """Return both splits of such frames, which are in one file."""
        return Dataset(
            name=name,
            train=train,
            test=test,
            classes=classes,
            channels=POLARITIES,
            size=train.frames.shape[-1],
            mean=(0.0,) * POLARITIES,
            std=(1 / 255,) * POLARITIES,  # counts as they are
            note=note,
            T=self.T,
            empty_frames=train.frames.empty,
        )


class EventData(FrameData):
    """Recordings of a camera in files below the folder ``dir``."""

    dir: str | None = None

    sensor: ClassVar[tuple[int, int]]
    format: ClassVar[str]
    layout: ClassVar[str]  # of the folder, for whoever has it not
    origin: ClassVar[str]  # where to get it, with checksums

    @abstractmethod
    def recordings(self, files: list[DataFile]) -> tuple[tuple[str, ...], list[Recording]]:
        """Find the classes and every recording in the files of the folder; none where the layout is another."""

    def load(self) -> Dataset:
        """Find the recordings and read their frames, or make them: the first time takes minutes for large sets.

        Raises:
            DataError: files are missing, unreadable or mislabelled, or one recording is in both splits; names them.
        """
        if self.dir is None or not Path(self.dir).is_dir():
            where = (
                "this data set is read from files" if self.dir is None else f"the data folder {self.dir} does not exist"
            )
            raise DataError(
                f"{where}: name the folder with --data-dir, which holds {self.layout}; it comes from {self.origin}"
            )
        root = existing(self.dir)
        classes, recordings = self.recordings(list_files(root))
        if not recordings:
            raise DataError(f"{root} must hold {self.layout}, from {self.origin}; it holds {held(root)}")
        frames = self._frames(recordings)
        train, test = (
            FrameStacks(
                frames,
                torch.tensor([n for n, recording in enumerate(recordings) if recording.test == test]),
                checked_labels([r.label for r in recordings if r.test == test], classes, f"{root} for {purpose}"),
            )
            for test, purpose in ((False, "training"), (True, "testing"))
        )
        return self.dataset(self.kind, classes, train, test)

    def _frames(self, recordings: list[Recording]) -> FrameFile:
        known = digests(self.cache_folder, sorted({recording.file.path for recording in recordings}))
        samples = [[r.file.name, known[r.file.path], r.start, r.end, r.test] for r in recordings]
        key = key_of([str(sample) for sample in samples], {"sensor": self.sensor, **self.cutting})
        return cached_frames(self.cache_folder, key, lambda: self._made(recordings))

    def _made(self, recordings: list[Recording]) -> Iterator[tuple[int, Frames]]:
        """Yield the number and the frames of every recording, file by file."""
        numbers: dict[DataFile, list[int]] = {}
        for number, recording in enumerate(recordings):
            numbers.setdefault(recording.file, []).append(number)
        seen: dict[tuple[bytes, int | None, int | None], Recording] = {}
        sorted_files = []
        for file, content in contents(list(numbers)):
            events, was_sorted = self._decoded(content, file)
            sorted_files += [str(file)] * was_sorted
            digest = hashlib.sha256(content).digest()
            for number in numbers[file]:
                recording = recordings[number]
                first = seen.setdefault((digest, recording.start, recording.end), recording)
                if first.test != recording.test:
                    raise DataError(f"{first} and {recording} are one recording, in training and in testing")
                yield number, self.integrated(recording.cut(events), str(recording))
        if sorted_files:
            warnings.warn(
                f"time goes back in {len(sorted_files)} of {len(numbers)} files, the first of them {sorted_files[0]}: "
                "their events were sorted by time",
                IsospikeWarning,
                stacklevel=2,
            )

    def _decoded(self, content: bytes, file: DataFile) -> tuple[Events, bool]:
        """Decode a file, and tell whether its events had to be sorted."""
        try:
            return decode(content, str(file), format=self.format, sensor=self.sensor), False
        except DataError:  # if it is not for the order, it is raised again
            return decode(content, str(file), format=self.format, sensor=self.sensor, sort=True), True


def on_square(events: Events, size: int) -> Events:
    """Move events to a square sensor: scaled by its longer side, and in the middle along the shorter one."""
    width, height = events.sensor or (size, size)
    longer = max(width, height)
    if (width, height) == (size, size):
        return events
    sides = ((events.x, width), (events.y, height))
    x, y = ((at.astype(np.int64) * size // longer + (size - side * size // longer) // 2) for at, side in sides)
    return Events(events.t, x.astype(np.uint16), y.astype(np.uint16), events.p, (size, size))


def user_cache() -> Path:
    """Return the folder in which the user's programs keep what they can make again."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "isospike"

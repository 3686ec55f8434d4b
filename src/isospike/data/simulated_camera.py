"""Images of any data set as recordings: they move before a simulated event camera."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from isospike.data.dataset import Dataset
from isospike.data.images import FileImages, Images
from isospike.data.kinds import DATA, DataSpec
from isospike.data.recordings import FrameData, FrameStacks
from isospike.errors import DataError
from isospike.events import Camera, Events, moved, random_walk, saccades
from isospike.events.cache import cached_frames, digests, key_of
from isospike.events.frames import Frames
from isospike.spec import Spec

AT_ONCE = 32  # images that are recorded together: their pixels stay in the processor's cache
HASHED_AT_ONCE = 512
BRIGHTNESS = (0.299, 0.587, 0.114)  # of red, green and blue (ITU-R BT.601)
VERSION = 1  # of the simulation; another one makes other frames

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
FromZero = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class CameraSpec(Spec):
    """Arguments of ``iso.events.Camera``."""

    threshold: Positive = Camera.threshold
    spread: FromZero = Camera.spread
    dark: Positive = Camera.dark
    refractory: Annotated[int, Field(ge=0)] = Camera.refractory
    leak: FromZero = Camera.leak
    noise: FromZero = Camera.noise


@DATA.add
class SimulatedCameraData(FrameData):
    """Images of another kind of data, moved before a simulated event camera.

    ``images`` is that kind with its options, read as its test images are. Each moves for ``duration`` microseconds,
    within ``reach`` pixels of its place, along three "saccades" or a random "walk" in ``samples`` steps. ``seed`` draws
    the camera's pixels, its noise and the walks.
    """

    kind: Literal["simulated_camera"]
    images: Annotated[DataSpec, DATA]
    camera: CameraSpec = CameraSpec()
    motion: Literal["saccades", "walk"] = "saccades"
    reach: Annotated[float, Field(ge=0, le=100)] = 2.0
    duration: PositiveInt = 300_000
    samples: Annotated[int, Field(ge=2, le=10_000)] = 48
    seed: Annotated[int, Field(ge=0)] = 0

    def load(self) -> Dataset:
        """Read the images, and their frames, or make them.

        Raises:
            DataError: as of the images; or a recording has too few events, or what is moved is a recording itself.
        """
        source = self.images.load()
        if source.T is not None:
            raise DataError(f"a simulated camera records images, and {source.name} holds recordings")
        splits = [source.train.prepared_as(source.test), source.test]
        options = self.model_dump(exclude={"images", "cache"})
        of = [_content(images, self.cache_folder) for images in splits]
        key = key_of(of, {"simulation": VERSION, **options})
        frames = cached_frames(self.cache_folder, key, lambda: self._made(splits))
        count = len(splits[0])
        train = FrameStacks(frames, torch.arange(count), source.train.labels)
        test = FrameStacks(frames, torch.arange(count, len(frames)), source.test.labels)
        return self.dataset(f"simulated events of {source.name}", source.classes, train, test, source.note)

    def record(self, pixels: Tensor, first: int = 0) -> list[Events]:
        """Record images.

        Args:
            pixels: uint8 ``[B, C, H, W]``, grey or colour.
            first: The number of the first; noise and walk of an image depend on the seed and its number alone.
        """
        rngs = [np.random.default_rng((self.seed, first + n)) for n in range(len(pixels))]
        if self.motion == "saccades":
            paths = np.broadcast_to(saccades(self.reach, self.samples), (len(pixels), self.samples, 2))
        else:
            paths = np.stack([random_walk(self.reach, self.samples, rng) for rng in rngs])
        light = _light(pixels)
        camera = Camera(**self.camera.model_dump())
        t = np.linspace(0, self.duration, self.samples).astype(np.int64).tolist()
        return camera.record(moved(light, paths), t, camera.thresholds(light.shape[1], light.shape[2], self.seed), rngs)

    def _made(self, splits: list[Images]) -> Iterator[tuple[int, Frames]]:
        number = 0
        for images, purpose in zip(splits, ("training", "test"), strict=True):
            start = number
            for part in images.batches(torch.arange(len(images)).split(AT_ONCE), seed=0):
                for events in self.record(part, number):
                    name = f"{purpose} image {number - start} of {self.images.kind}"
                    yield number, self.integrated(events, name)
                    number += 1


# Rows that are added later can be moved too.
DATA.held_by(SimulatedCameraData)


def _content(images: Images, cache: Path) -> str:
    """Return a name for the images of a split that changes with any of their pixels.

    Of images in files, whose content is known without a look into those that have not changed, the way in which they
    are decoded takes the place of the pixels, where it is a dataclass, which says all that it is.
    """
    digest = hashlib.sha256()
    if isinstance(images, FileImages) and hasattr(images.decode, "__dataclass_fields__"):
        known = digests(cache, sorted({path for path in images.sources if isinstance(path, Path)}))
        for source in images.sources:
            digest.update(known[source].encode() if isinstance(source, Path) else hashlib.sha256(source).digest())
        return f"{digest.hexdigest()} {len(images)} {images.decode!r}"
    for pixels in images.batches(torch.arange(len(images)).split(HASHED_AT_ONCE), seed=0):
        digest.update(pixels.contiguous().numpy().tobytes())
    return f"{digest.hexdigest()} {len(images)} {list(pixels.shape[1:])}"


def _light(pixels: Tensor) -> npt.NDArray[np.float64]:
    """Return the brightness from 0 to 1, ``[B, H, W]``."""
    light = pixels.double().numpy() / 255
    return light[:, 0] if light.shape[1] == 1 else np.tensordot(light, BRIGHTNESS, axes=(1, 0))

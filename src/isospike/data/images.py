"""A split of a data set: labels in memory, images in memory or read from files batch by batch."""

import io
import os
import signal
import struct
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from isospike.data.modes import in_8_bits
from isospike.errors import DataError
from isospike.text import brief

Decode = Callable[[Image.Image, np.random.Generator], Image.Image]
# What is read, whatever the name of a file says. Pillow knows more formats, some of which run other programs.
FORMATS = ("BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
# What Pillow raises for damaged files: of its own, and of struct, zlib and the conversions that it meets on its way.
BROKEN = (
    OSError, SyntaxError, ValueError, EOFError, LookupError, TypeError, AttributeError, ArithmeticError,
    AssertionError, RuntimeError, MemoryError, struct.error, zlib.error, Image.DecompressionBombError,
)  # fmt: skip
STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
ORIENTATION = 0x0112  # the tag of EXIF
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def read_image(source: bytes | Path, name: str, channels: int = 3) -> Image.Image:
    """Decode an image file, whole and upright, as RGB or (``channels`` 1) grey of 8 bits; see ``in_8_bits``.

    Args:
        source: The file, or its content.
        name: What to call it in an error.
        channels: 3 or 1.

    Raises:
        DataError: not readable as an image of one of ``FORMATS``, cut short, or of a mode that is not read.
    """
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=FORMATS) as image:
            image.load()
            turn = UPRIGHT.get(_orientation(image))
            pixels = in_8_bits(image, name, channels)
            return pixels if turn is None else pixels.transpose(turn)
    except DataError:
        raise
    except BROKEN as error:
        reason = brief(str(error) or type(error).__name__, 200)
        raise DataError(f"{name} cannot be read as an image ({reason}): is the file whole?") from error


def _orientation(image: Image.Image) -> Any:
    """Return the EXIF number that says how the camera was held; None where there is none, or a damaged one."""
    try:
        return image.getexif().get(ORIENTATION)
    except BROKEN:
        return None


def to_tensor(image: Image.Image) -> Tensor:
    """Turn an image into uint8 ``[C, H, W]``."""
    array = np.asarray(image)
    return torch.from_numpy(np.array(array.transpose(2, 0, 1) if array.ndim == 3 else array[None]))


class Images(ABC):
    """A split: ``labels`` int64 ``[N]``, and images by index."""

    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def batches(self, order: Sequence[Tensor], seed: int) -> Iterator[Tensor]:
        """Yield uint8 images ``[B, C, H, W]`` for each tensor of indices, or frames of recordings ``[T, B, C, H, W]``.

        ``seed`` feeds whatever reading draws.
        """

    @abstractmethod
    def prepared_as(self, other: "Images") -> "Images":
        """Return the same images, read as those of another split of the same data set are."""


@dataclass(frozen=True)
class Chosen(Images):
    """Some images of a split, by their places in it, int64 ``[M]``."""

    images: Images
    order: Tensor

    @property
    def labels(self) -> Tensor:  # type: ignore[override]
        """Return those of the chosen images."""
        return self.images.labels[self.order]

    def batches(self, order: Sequence[Tensor], seed: int) -> Iterator[Tensor]:
        """Yield the chosen images of these places."""
        return self.images.batches([self.order[indices] for indices in order], seed)

    def prepared_as(self, other: Images) -> Images:
        """Return the same choice of the images so prepared."""
        return Chosen(self.images.prepared_as(other), self.order)


@dataclass(frozen=True)
class ArrayImages(Images):
    """Images ``[N, C, H, W]`` uint8 in memory."""

    images: Tensor
    labels: Tensor

    def batches(self, order: Sequence[Tensor], seed: int) -> Iterator[Tensor]:
        """Gather the images; nothing is drawn."""
        for indices in order:
            yield self.images[indices]

    def prepared_as(self, other: Images) -> Images:
        """Return these images: they have been read."""
        return self


@dataclass(frozen=True)
class FileImages(Images):
    """Encoded images, in files or in memory, decoded by worker processes.

    Args:
        sources: A path, or the content of a file, per image.
        names: What to call each in an error; None: its path.
        labels: int64 ``[N]``.
        decode: From an RGB image to one of the size of the batch; may draw from the generator it is given, which
            depends on the seed and the index alone, so that the number of workers changes nothing.
        workers: Processes, of which no more than ``usable_workers`` are started; 0 decodes in this one.
    """

    sources: Sequence[bytes | Path]
    labels: Tensor
    decode: Decode
    workers: int
    names: Sequence[str] | None = None

    def batches(self, order: Sequence[Tensor], seed: int) -> Iterator[Tensor]:
        """Decode images ahead of their use.

        Raises:
            DataError: an image cannot be read; names it.
        """
        loader = DataLoader(
            _Decoder(self, seed),
            batch_sampler=[indices.tolist() for indices in order],
            num_workers=usable_workers(self.workers),
            collate_fn=_collate,
            worker_init_fn=_leave_signals_to_the_parent,
        )
        for batch in _started(loader):  # under no name: the traceback of an error would keep the workers alive
            if isinstance(batch, str):
                raise DataError(batch)
            yield batch

    def prepared_as(self, other: Images) -> Images:
        """Return these images, scaled and cut as the other split is."""
        return replace(self, decode=other.decode) if isinstance(other, FileImages) else self

    def in_memory(self) -> ArrayImages:
        """Decode all of them once.

        Raises:
            DataError: an image cannot be read; names it.
        """
        order = torch.arange(len(self)).split(512)
        return ArrayImages(torch.cat(list(self.batches(order, seed=0))), self.labels)

    def name(self, index: int) -> str:
        """Name an image, for errors."""
        return str(self.sources[index]) if self.names is None else self.names[index]


def usable_workers(asked: int) -> int:
    """Return as many processes as were asked for, and no more than there are cores: more would only wait."""
    return min(asked, len(os.sched_getaffinity(0)))


class _Decoder(TorchDataset[Tensor | str]):
    """Runs in the workers; an error comes back as its text, for PyTorch would wrap it in a stack trace."""

    def __init__(self, files: FileImages, seed: int) -> None:
        self.files, self.seed = files, seed

    def __getitem__(self, index: int) -> Tensor | str:
        name = self.files.name(index)
        try:
            image = read_image(self.files.sources[index], name)
        except DataError as error:
            return str(error)
        try:
            return to_tensor(self.files.decode(image, np.random.default_rng((self.seed, index))))
        except DataError as error:
            return f"{name}: {error}"


def _leave_signals_to_the_parent(worker: int) -> None:
    """Ignore signals to stop, which often reach a whole group: the parent saves first and ends the workers.

    Python's wakeup pipe is the parent's.
    """
    signal.set_wakeup_fd(-1)
    for number in STOPS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)


def _started(loader: DataLoader[Any]) -> Iterator[Any]:
    """Start the workers while signals to stop wait, as a worker does not ignore them from its first moment on."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
    try:
        return iter(loader)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _collate(items: list[Tensor | str]) -> Tensor | str:
    for item in items:
        if isinstance(item, str):
            return item
    return torch.stack([item for item in items if isinstance(item, Tensor)]) if items else torch.empty(0)

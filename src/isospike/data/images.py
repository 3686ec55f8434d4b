"""A split of a data set: labels in memory, images in memory or read from files batch by batch."""

import io
import signal
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from isospike.errors import DataError

Decode = Callable[[Image.Image, np.random.Generator], Image.Image]
# What Pillow raises for damaged files, beyond OSError.
BROKEN = (OSError, SyntaxError, ValueError, EOFError, IndexError, Image.DecompressionBombError)


def read_image(source: bytes | Path, name: str, channels: int = 3) -> Image.Image:
    """Decode an image file, whole, as RGB or (``channels`` 1) grey.

    Args:
        source: The file, or its content.
        name: What to call it in an error.
        channels: 3 or 1.

    Raises:
        DataError: not readable as an image, or cut short.
    """
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
            return image.convert("L" if channels == 1 else "RGB")
    except BROKEN as error:
        raise DataError(f"{name} cannot be read as an image ({error}): is the file whole?") from error


def to_tensor(image: Image.Image) -> Tensor:
    """uint8 ``[C, H, W]``."""
    array = np.asarray(image)
    return torch.from_numpy(np.array(array.transpose(2, 0, 1) if array.ndim == 3 else array[None]))


class Images(ABC):
    """A split: ``labels`` int64 ``[N]``, and images by index."""

    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def batches(self, order: Sequence[Tensor], seed: int) -> Iterator[Tensor]:
        """uint8 images ``[B, C, H, W]`` for each tensor of indices; ``seed`` feeds whatever reading draws."""


@dataclass(frozen=True)
class ArrayImages(Images):
    """Images ``[N, C, H, W]`` uint8 in memory."""

    images: Tensor
    labels: Tensor

    def batches(self, order: Sequence[Tensor], seed: int) -> Iterator[Tensor]:
        """Gathered, nothing drawn."""
        for indices in order:
            yield self.images[indices]


@dataclass(frozen=True)
class FileImages(Images):
    """Encoded images, in files or in memory, decoded by worker processes.

    Args:
        sources: A path, or the content of a file, per image.
        names: What to call each in an error; None: its path.
        labels: int64 ``[N]``.
        decode: From an RGB image to one of the size of the batch; may draw from the generator it is given, which
            depends on the seed and the index alone, so that the number of workers changes nothing.
        workers: Processes; 0 decodes in this one.
    """

    sources: Sequence[bytes | Path]
    labels: Tensor
    decode: Decode
    workers: int
    names: Sequence[str] | None = None

    def batches(self, order: Sequence[Tensor], seed: int) -> Iterator[Tensor]:
        """Decoded ahead of their use.

        Raises:
            DataError: an image cannot be read; names it.
        """
        loader = DataLoader(
            _Decoder(self, seed),
            batch_sampler=[indices.tolist() for indices in order],
            num_workers=self.workers,
            collate_fn=_collate,
            worker_init_fn=_leave_interrupts_to_the_parent,
        )
        for batch in loader:
            if isinstance(batch, str):
                raise DataError(batch)
            yield batch

    def in_memory(self) -> ArrayImages:
        """All of them, decoded once.

        Raises:
            DataError: an image cannot be read; names it.
        """
        order = torch.arange(len(self)).split(512)
        return ArrayImages(torch.cat(list(self.batches(order, seed=0))), self.labels)

    def name(self, index: int) -> str:
        """For errors."""
        return str(self.sources[index]) if self.names is None else self.names[index]


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


def _leave_interrupts_to_the_parent(worker: int) -> None:
    """Ctrl-C reaches every process of a terminal; the parent saves first and ends the workers itself."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _collate(items: list[Tensor | str]) -> Tensor | str:
    for item in items:
        if isinstance(item, str):
            return item
    return torch.stack([item for item in items if isinstance(item, Tensor)]) if items else torch.empty(0)

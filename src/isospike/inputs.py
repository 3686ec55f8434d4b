"""What an image must be made into before a trained network can read it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from isospike.errors import ConfigError

LARGEST = 10_000  # pixels of a side: a larger image takes gigabytes


@dataclass(frozen=True)
class Inputs:
    """How the test images of a network were made, and what its classes are called.

    Args:
        size: Height and width in pixels.
        mean: Per channel, for images in [0, 1].
        std: Likewise.
        classes: Names; labels are their indices. Empty: nobody named them.
        resize: Pixels that the shorter side is scaled to before the central square of ``size`` is cut out. None:
            ``size``.
        T: Steps of the recordings of events that the network was trained on; None: images.

    Raises:
        ConfigError: one of them is out of its range, or of another kind.
    """

    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: tuple[str, ...] = ()
    resize: int | None = None
    T: int | None = None

    def __post_init__(self) -> None:
        _check_pixels("size", self.size, 1)
        if self.resize is not None:
            _check_pixels("resize", self.resize, self.size)
        if self.T is not None and (not _is_whole(self.T) or self.T < 1):
            raise ConfigError(f"T of the inputs is a number of steps from 1 on, got {self.T!r}")
        for name in ("mean", "std"):
            object.__setattr__(self, name, _numbers(name, getattr(self, name)))
        if len(self.mean) != len(self.std) or min(self.std) <= 0:
            raise ConfigError(
                f"mean and std of the inputs are one number per channel, std greater than 0, "
                f"got {list(self.mean)} and {list(self.std)}"
            )
        if not _is_list(self.classes) or not all(isinstance(name, str) for name in self.classes):
            raise ConfigError(f"classes of the inputs are names, got {self.classes!r}")
        object.__setattr__(self, "classes", tuple(self.classes))

    @property
    def channels(self) -> int:
        """Channels of the images."""
        return len(self.mean)

    def as_dict(self) -> dict[str, Any]:
        """Return all of it as plain values, for JSON."""
        return asdict(self)

    @staticmethod
    def from_facts(facts: Mapping[str, Any]) -> "Inputs":
        """Read ``analysis/data.json`` of a run.

        Raises:
            ConfigError: a fact is missing, or as above.
        """
        for key in ("size", "mean", "std", "classes"):
            if key not in facts:
                raise ConfigError(f"it says nothing of the {key} of the images")
        size = facts.get("test_size") or facts["size"]
        return Inputs(size, facts["mean"], facts["std"], facts["classes"], facts.get("test_resize"), facts.get("T"))


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _check_pixels(name: str, value: Any, least: int) -> None:
    if not _is_whole(value) or not least <= value <= LARGEST:
        raise ConfigError(f"{name} of the inputs is a number of pixels from {least} to {LARGEST:,}, got {value!r}")


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _numbers(name: str, values: Any) -> tuple[float, ...]:
    if not _is_list(values) or not values or not all(_is_number(value) for value in values):
        raise ConfigError(f"{name} of the inputs is a number for each channel, got {values!r}")
    return tuple(float(value) for value in values)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)

"""Facts of the feature maps of a model, and which of them an index means."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from isospike.errors import ConfigError
from isospike.models.bodies import STEMS, Layout
from isospike.residual import Stage


class Feature(NamedTuple):
    """One map: its channels, input pixels per pixel of it (to a side), and the name of the module that puts it out."""

    channels: int
    reduction: int
    module: str


class FeatureInfo(tuple[Feature, ...]):
    """Facts of several maps, in their order; the methods are those of timm."""

    def channels(self) -> list[int]:
        """Return the channels of each map."""
        return [feature.channels for feature in self]

    def reduction(self) -> list[int]:
        """Return the input pixels per pixel of each map, to a side."""
        return [feature.reduction for feature in self]

    def module_name(self) -> list[str]:
        """Return the module that puts out each map."""
        return [feature.module for feature in self]


def describe(layout: Layout, first: str, stages: Iterable[Stage]) -> FeatureInfo:
    """Describe what enters the first stage, put out by the module ``first``, and what ``stages`` put out."""
    stem = STEMS[layout.stem]
    reduction = 2 if stem.max_pool else 1
    for _, stride in stem.convs:
        reduction *= stride
    features = [Feature(layout.stem_width, reduction, first)]
    for index, (stage, stride) in enumerate(zip(stages, layout.strides, strict=True)):
        *_, last = stage
        reduction *= stride * (1 if stage.pool is None else 2)
        features.append(Feature(last.out_channels, reduction, f"stages.{index}"))
    return FeatureInfo(features)


def checked_indices(indices: Sequence[int] | None, number: int) -> list[int]:
    """Return ``indices`` of ``number`` maps, all of them where none are given, counted from the start."""
    if indices is None:
        return list(range(number))
    for index in indices:
        if not -number <= index < number:
            raise ConfigError(f"there is no feature map {index}: they count from 0, before the stages, to {number - 1}")
    if not indices:
        raise ConfigError(f"no feature map is asked for: they count from 0, before the stages, to {number - 1}")
    return [index % number for index in indices]

"""A simulated event camera: images that move before pixels which tell changes of brightness.

Source: Rebecq et al. 2018, "ESIM: an Open Event Camera Simulator" (pixels between samples, refractory time); Hu et al.
2021, "v2e", arXiv:2006.07722 (spread of thresholds, leak, noise).
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from isospike.errors import ConfigError
from isospike.events.recording import Events

LEAST_THRESHOLD = 0.01  # of a pixel, however far its threshold lies below the mean
Floats = npt.NDArray[np.floating]


@dataclass(frozen=True)
class Camera:
    """Pixels that remember a logarithm of brightness, and tell when theirs is another by a threshold.

    A pixel takes the logarithm of ``dark`` plus its light. Where it lies one threshold above what the pixel remembers,
    there is an event of polarity 1 and the pixel remembers a threshold more; one below, an event of polarity 0 and a
    threshold less.

    Args:
        threshold: Mean change of the logarithm for an event, above 0.
        spread: Standard deviation of the thresholds over the pixels; 0: all have the same.
        dark: Brightness that a pixel has without light, above 0, where white is 1.
        refractory: Microseconds after an event in which its pixel tells nothing; what it would have told is lost.
        leak: Events of polarity 1 per second of a pixel whose light does not change.
        noise: Events per second and pixel that no light made, of either polarity.

    Raises:
        ConfigError: a value is out of its range.
    """

    threshold: float = 0.2
    spread: float = 0.03
    dark: float = 0.1
    refractory: int = 500
    leak: float = 0.1
    noise: float = 0.1

    def __post_init__(self) -> None:
        for name in ("threshold", "dark"):
            if not 0 < getattr(self, name) < np.inf:
                raise ConfigError(f"{name} of a camera is a number above 0, got {getattr(self, name)}")
        for name in ("spread", "refractory", "leak", "noise"):
            if not 0 <= getattr(self, name) < np.inf:
                raise ConfigError(f"{name} of a camera is a number from 0 on, got {getattr(self, name)}")

    def thresholds(self, height: int, width: int, seed: int) -> Floats:
        """Return the threshold of every pixel, ``[height, width]``: the same camera for the same seed."""
        drawn = np.random.default_rng(seed).normal(self.threshold, self.spread, (height, width))
        return np.maximum(drawn, min(LEAST_THRESHOLD, self.threshold))

    def record(
        self, light: Iterable[Floats], t: Sequence[int], thresholds: Floats, rngs: Sequence[np.random.Generator]
    ) -> list[Events]:
        """Record several scenes at once, each as if it were alone.

        Args:
            light: At every sample the light on the pixels, from 0 to 1, ``[B, height, width]``; between samples its
                logarithm changes evenly. The pixels remember the first sample.
            t: Microseconds of the samples, which go up.
            thresholds: As of ``thresholds``.
            rngs: A generator for each of the B scenes, from which its noise is drawn.

        Returns:
            The events of each scene.
        """
        parts = [*self._told(light, t, thresholds), *self._noise(t, thresholds.shape, rngs)]
        pixel, time, p = (np.concatenate(column) for column in zip(*parts, strict=True))
        span = t[-1] - t[0] + self.refractory + 1
        place = pixel * span + (time - t[0])  # pixels do not reach into each other
        order = np.argsort(place, kind="stable")
        order = order[_apart(place[order], pixel[order], self.refractory)] if self.refractory else order
        pixel, time, p = pixel[order], time[order], p[order]
        pixels = thresholds.size
        bounds = np.searchsorted(pixel, np.arange(len(rngs) + 1) * pixels).tolist()
        return [
            _in_order(pixel[start:end] - scene * pixels, time[start:end], p[start:end], thresholds.shape)
            for scene, (start, end) in enumerate(pairwise(bounds))
        ]

    def _told(self, light: Iterable[Floats], t: Sequence[int], thresholds: Floats) -> Iterator["_Part"]:
        """Yield the pixel, time and polarity of the events that changes and the leak make, sample by sample.

        In thresholds above the first sample, a pixel with a leak is a pixel without whose brightness goes up.
        """
        levels = (np.log(self.dark + sample) / thresholds for sample in light)
        first = next(levels)
        before, remembered = np.zeros(first.size), np.zeros(first.size, np.int64)
        for last, now, level in zip(t[:-1], t[1:], levels, strict=True):
            after = (level - first).ravel() + self.leak * (now - t[0]) * 1e-6
            told = (after - remembered).astype(np.int64)  # towards 0
            pixel = np.flatnonzero(told)
            number = np.abs(told[pixel])
            pixel, nth = np.repeat(pixel, number), _counted(number)
            sign = np.sign(told[pixel])
            share = (remembered[pixel] + sign * nth - before[pixel]) / (after[pixel] - before[pixel])
            yield pixel, last + np.rint(share * (now - last)).astype(np.int64), (sign > 0).astype(np.uint8)
            remembered += told
            before = after

    def _noise(
        self, t: Sequence[int], shape: tuple[int, ...], rngs: Sequence[np.random.Generator]
    ) -> Iterator["_Part"]:
        pixels = int(np.prod(shape))
        for scene, rng in enumerate(rngs):
            count = rng.poisson(self.noise * pixels * (t[-1] - t[0]) * 1e-6)
            pixel = rng.integers(pixels, size=count) + scene * pixels
            yield pixel, rng.integers(t[0], t[-1], count), rng.integers(2, size=count, dtype=np.uint8)


_Part = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.uint8]]


def _counted(numbers: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return 1 to n for each n, one after the other."""
    return np.arange(numbers.sum()) - np.repeat(numbers.cumsum() - numbers, numbers) + 1


def _apart(place: npt.NDArray[np.int64], pixel: npt.NDArray[np.int64], least: int) -> npt.NDArray[np.int64]:
    """Find the events that come ``least`` after the last one kept of their ``place``, whose times are in order.

    All pixels go on at once, from one event that is kept to the next.
    """
    at = np.flatnonzero(np.diff(pixel, prepend=-1))
    kept = [at]
    while len(at):
        following = np.searchsorted(place, place[at] + least)
        inside = following < len(place)
        at = following[inside][pixel[following[inside]] == pixel[at[inside]]]
        kept.append(at)
    return np.sort(np.concatenate(kept))


def _in_order(
    pixel: npt.NDArray[np.int64], t: npt.NDArray[np.int64], p: npt.NDArray[np.uint8], shape: tuple[int, ...]
) -> Events:
    order = np.argsort(t, kind="stable")
    y, x = np.divmod(pixel[order], shape[1])
    return Events(t[order], x, y, p[order], (shape[1], shape[0]))


def saccades(reach: float, samples: int) -> Floats:
    """Return three straight movements of equal time around a triangle, as those that made N-MNIST.

    Args:
        reach: Pixels from its middle to its corners.
        samples: Places on the way, ends included.

    Returns:
        Column and row that the middle is moved by, ``[samples, 2]``.
    """
    angles = np.pi / 2 + np.arange(4) * 2 * np.pi / 3
    corners = reach * np.stack([np.cos(angles), np.sin(angles)])
    return np.stack([np.interp(np.linspace(0, 3, samples), np.arange(4), side) for side in corners], axis=1)


def random_walk(reach: float, samples: int, rng: np.random.Generator) -> Floats:
    """Move in random directions, ``reach`` / 4 in the mean along each axis, within ``reach``.

    Returns:
        As of ``saccades``.
    """
    steps = rng.normal(0, reach / 4, (samples, 2)).cumsum(axis=0) if reach else np.zeros((samples, 2))
    return reach - np.abs((steps + reach) % (4 * reach) - 2 * reach) if reach else steps  # reflected


def moved(images: Floats, paths: Floats) -> Iterator[Floats]:
    """Yield images as they pass the camera, whose edges go on outside of them.

    Args:
        images: Light from 0 to 1, ``[B, height, width]``.
        paths: Column and row that each is moved by at each sample, ``[B, samples, 2]``; between pixels light is
            interpolated.

    Yields:
        ``[B, height, width]`` for each sample.
    """
    height, width = images.shape[1:]
    margin = int(np.ceil(np.abs(paths).max(initial=0))) + 1
    wide = np.pad(images, ((0, 0), (margin, margin), (margin, margin)), mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(wide, (height + 1, width + 1), axis=(1, 2))
    scene = np.arange(len(images))
    for sample in range(paths.shape[1]):
        corner = margin - paths[:, sample]
        whole = np.floor(corner).astype(int)
        x, y = (corner - whole).T[:, :, None, None]
        seen = windows[scene, whole[:, 1], whole[:, 0]]
        rows = seen[:, :-1] * (1 - y) + seen[:, 1:] * y
        yield rows[:, :, :-1] * (1 - x) + rows[:, :, 1:] * x

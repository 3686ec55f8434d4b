"""How many samples and steps go through a network together."""

from typing import NamedTuple

CACHE = 1 << 21  # bytes that a core keeps close; of this size or half of it, ResNet-20 is fastest
FEWEST = 4  # samples, and steps where there are as many: a large convolution would read all its weights for less
LARGE = 1 << 25  # bytes of a map that fits no cache: no more steps go together, so that memory does not grow with T


class Pieces(NamedTuple):
    """So many samples and steps at a time."""

    samples: int
    steps: int


def pieces_of(B: int, T: int, size: int, *, divisible: bool) -> Pieces:
    """Choose so much that a map fits the cache, if that is worth it.

    Args:
        B: Samples there are.
        T: Steps there are.
        size: Bytes of the largest map of one sample at one step.
        divisible: Whether samples may be parted.
    """
    fit = CACHE // size
    if divisible and fit >= FEWEST * min(T, FEWEST):
        steps = min(T, fit // FEWEST)
        return Pieces(min(B, fit // steps), steps)
    return Pieces(B, min(T, max(1, LARGE // (size * B))))

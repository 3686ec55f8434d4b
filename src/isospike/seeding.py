"""One seed for a run, and from it one for everything that draws: no state to save, nothing that order can change."""

import numpy as np


def derive_seed(*parts: int) -> int:
    """Return a 63-bit seed from whole numbers such as ``(run seed, purpose, epoch, batch)``; any change gives another.

    How many they are counts: ``(0, 3)`` and ``(0, 3, 0)`` are two seeds.

    Args:
        parts: In [0, 2**64).

    Raises:
        OverflowError: one of them is outside.
    """
    # Of the same 64 bits each and with their number in front, no two lists of parts look alike to the hash, which
    # fills up short ones with zeros.
    words = np.array([len(parts), *parts], np.uint64).view(np.uint32)
    return int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0] >> np.uint64(1))

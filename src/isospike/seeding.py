"""One seed for a run, and from it one for everything that draws: no state to save, nothing that order can change."""

import numpy as np


def derive_seed(*parts: int) -> int:
    """A 63-bit seed from whole numbers such as ``(run seed, purpose, epoch, batch)``; any change gives another."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> np.uint64(1))

"""A wait says what it waits for."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

PATIENCE = 2.0  # seconds of silence that nobody takes for a hang


@contextmanager
def waiting_for(what: str, say: Callable[[str], None], patience: float = PATIENCE) -> Iterator[None]:
    """Say ``what`` is waited for, once, if the block takes longer than ``patience`` seconds.

    Args:
        what: A line such as "measuring what a step takes ...".
        say: Told of it, from a thread.
        patience: Seconds.
    """
    timer = threading.Timer(patience, say, [what])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()

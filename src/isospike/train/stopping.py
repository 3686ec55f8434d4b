"""Ctrl-C, SIGTERM, and the SIGHUP of a closed terminal: the first one asks a run to save and stop, a second one ends it
at once."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class StopRequest:
    """Whether, and by which signal, the run was asked to stop."""

    def __init__(self) -> None:
        self.signal: str | None = None

    def __bool__(self) -> bool:
        return self.signal is not None


@contextmanager
def listen_for_signals() -> Iterator[StopRequest]:
    """Collect ``SIGNALS`` inside the block; afterwards all is as it was. A SIGHUP that is ignored (nohup) stays so."""
    request = StopRequest()
    before = {number: signal.getsignal(number) for number in SIGNALS}
    if before[signal.SIGHUP] == signal.SIG_IGN:
        del before[signal.SIGHUP]
    terminals = [output for output in (1, 2) if os.isatty(output)]

    def ask(number: int, frame: FrameType | None) -> None:
        request.signal = signal.Signals(number).name
        for each, handler in before.items():
            signal.signal(each, handler)
        if number == signal.SIGHUP:
            _mute([output for output in terminals if not os.isatty(output)])

    for number in before:
        signal.signal(number, ask)
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _mute(outputs: list[int]) -> None:
    """Let writes to terminals that are gone lead nowhere: they would fail, and end the run before it is saved."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for output in outputs:
        os.dup2(nowhere, output)
    os.close(nowhere)

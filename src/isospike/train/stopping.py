"""Ctrl-C, SIGTERM, and the SIGHUP of a closed terminal: the first one asks a run to save and stop, a second one ends it
at once."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
ECHO = 1.0  # seconds in which a signal may come twice: timeout, torchrun and others tell a process, and then its group


class StopRequest:
    """Knows whether, and by which signal, the run was asked to stop."""

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


@contextmanager
def second_signal_ends(say: Callable[[str], None]) -> Iterator[None]:
    """Say the first of ``SIGNALS`` inside the block at once; end the process with exit code 1 at the second.

    What comes within ``ECHO`` seconds of the first belongs to it. A SIGHUP that is ignored (nohup) stays so.

    Python runs handlers of signals between two operations, and an operation of PyTorch may take minutes. The system
    writes the number of a signal into a pipe at once, and a thread reads it there. For commands, whose process it may
    end; ``listen_for_signals`` inside the block makes the first one a request.

    Args:
        say: Told of signals, from that thread.
    """
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    watcher = threading.Thread(target=_watch, args=(reading, say), daemon=True)
    watcher.start()
    before = {number: signal.getsignal(number) for number in SIGNALS}
    for number, handler in before.items():
        if handler != signal.SIG_IGN:
            signal.signal(number, _leave_to_the_watcher)
    pipe = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(pipe)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(writing)
        watcher.join()
        os.close(reading)


def _leave_to_the_watcher(number: int, frame: FrameType | None) -> None:
    """Handle the signal in Python, as only such a handler makes the system write into the pipe."""


def _watch(pipe: int, say: Callable[[str], None]) -> None:
    first, at = "", 0.0
    while number := os.read(pipe, 1):
        if number[0] not in SIGNALS or (first and time.monotonic() - at < ECHO):
            continue
        name = signal.Signals(number[0]).name
        with suppress(OSError):  # whoever was told may be gone
            if first:
                say(f"got {name} after {first}: ended at once; what was saved before is whole")
            elif number[0] != signal.SIGHUP:  # with which a terminal goes
                say(f"got {name}: saving after this step, then stopping; a second signal ends at once")
        if first:
            _end()
        first, at = name, time.monotonic()


def _end() -> None:
    """End the process without waiting for the operation that it is in; a live display has hidden the cursor."""
    if os.isatty(1):
        os.write(1, b"\x1b[?25h\n")
    os._exit(1)


def _mute(outputs: list[int]) -> None:
    """Let writes to terminals that are gone lead nowhere: they would fail, and end the run before it is saved."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for output in outputs:
        os.dup2(nowhere, output)
    os.close(nowhere)

"""Calls of the compiled library, which can be noted while they are made, to be made again."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor


class LibraryCall(NamedTuple):
    """A function of the library, and its arguments; it returns 0 where all went well."""

    function: Callable[..., int]
    arguments: tuple[object, ...]


@dataclass
class Notes:
    """What was done between two maps.

    Attributes:
        calls: Of the library, in their order.
        complete: Whether they are all: no map was copied on the way, and no answer of the library decided anything.
    """

    calls: list[LibraryCall] = field(default_factory=list)
    complete: bool = True


class _Taken(threading.local):
    notes: Notes | None = None


_taken = _Taken()


@contextmanager
def noted() -> Iterator[Notes]:
    """Note what this thread lets the library do."""
    before, _taken.notes = _taken.notes, Notes()
    try:
        yield _taken.notes
    finally:
        _taken.notes = before


def call(function: Callable[..., int], *arguments: object) -> int:
    """Call a function of the library; the memory that the arguments point at must stay as long as a note of it."""
    if _taken.notes is not None:
        _taken.notes.calls.append(LibraryCall(function, arguments))
    return function(*arguments)


def note_more() -> None:
    """Tell who takes notes that something is done besides noted calls."""
    if _taken.notes is not None:
        _taken.notes.complete = False


def channels_last(x: Tensor) -> Tensor:
    """Return ``x [N, C, H, W]`` with its channels innermost: itself, or a copy."""
    if x.is_contiguous(memory_format=torch.channels_last):
        return x
    note_more()
    return x.contiguous(memory_format=torch.channels_last)


def add_onto(onto: Tensor, out: Tensor) -> Tensor:
    """Add ``out`` to ``onto`` in place."""
    note_more()
    return onto.add_(out)

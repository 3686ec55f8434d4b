"""A pass of a compiled network made again, without the Python between its operations: for images that come one by one.

The library is called with the same arguments on the same memory. What PyTorch computes is computed anew and copied to
where it was.
"""

import threading
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any

from torch import Tensor

from isospike.errors import RunFailed
from isospike.graph import Value
from isospike.inference.layers import Bound, Maps, States
from isospike.ops.cpu.calls import LibraryCall, noted
from isospike.ops.memory import Arena, has_no_gaps, memory_from
from isospike.ops.pointwise import Span

MOST = 4  # kinds of passes that are kept
LARGEST = 1 << 28  # bytes that they hold in all
MAPS = 4  # as large as the first one that are alive at once, about

Again = Callable[[Span, States], None]


class Replay:
    """A pass over maps and potentials of one shape; its memory is its own, so one thread at a time has it.

    Args:
        operations: Of the network, in their order.
        maps: What they read that none of them writes.
        result: The map of the logits.
        span: Time steps and samples.
        states: The potentials before.
    """

    def __init__(
        self, operations: Iterable[Bound], maps: Mapping[Value, Tensor], result: Value, span: Span, states: States
    ) -> None:
        self.arena, self.lock = Arena(), threading.Lock()
        self.steps: list[LibraryCall | Again] = []
        self.inputs = {value: self._copy(x) for value, x in maps.items()}
        self.before = {name: self._copy(v) for name, v in states.items()}
        self.after: dict[Any, Tensor] = {}  # potentials that the library leaves
        here, now = dict(self.inputs), dict(self.before)
        for operation in operations:
            self._note(operation, here, span, now)
            for value in operation.done:
                del here[value]
            self.arena.keep([*here.values(), *now.values()])
        self.logits = here[result]
        self.before = {name: v for name, v in self.before.items() if name in self.after}

    def run(self, maps: Mapping[Value, Tensor], span: Span, states: States) -> Tensor | None:
        """Return the logits, and replace the states; None, and nothing is done, where another thread is at it."""
        if not self.lock.acquire(blocking=False):
            return None
        try:
            for value, place in self.inputs.items():
                place.copy_(maps[value])
            for name, place in self.before.items():
                place.copy_(states[name])
            for step in self.steps:
                if not isinstance(step, LibraryCall):
                    step(span, states)
                elif step.function(*step.arguments):
                    raise RunFailed("there is no memory left for a layer: take a smaller batch")
            states.update({name: v.clone() for name, v in self.after.items()})
            return self.logits.clone()
        finally:
            self.lock.release()

    def _note(self, operation: Bound, maps: Maps, span: Span, states: States) -> None:
        """Run an operation for the first time, and note how it is run again."""
        before, states_before = dict(maps), dict(states)
        with memory_from(self.arena), noted() as notes:
            operation.run(maps, span, states)
        if operation.by_library and notes.complete:
            self.steps += notes.calls
            self.after |= {name: v for name, v in states.items() if states_before.get(name) is not v}
            return
        made = {value: x for value, x in maps.items() if before.get(value) is not x}
        places = {value: self._place(x, before.values()) for value, x in made.items()}
        maps.update(places)

        def again(span: Span, states: States) -> None:
            here = dict(before)
            operation.run(here, span, states)
            for value, place in places.items():
                if here[value].data_ptr() != place.data_ptr():
                    place.copy_(here[value])

        self.steps.append(again)

    def _place(self, x: Tensor, before: Iterable[Tensor]) -> Tensor:
        """Return ``x`` if it is one of the maps before or a view of it, or else a copy in the arena."""
        if any(x.untyped_storage().data_ptr() == one.untyped_storage().data_ptr() for one in before):
            return x
        return self._copy(x)

    def _copy(self, x: Tensor) -> Tensor:
        x = x if has_no_gaps(x) else x.contiguous()
        return self.arena.take(x.shape, x.stride(), x.dtype).copy_(x)


class Replays:
    """Replays of a network, by what makes its passes the same."""

    def __init__(self) -> None:
        self._found: dict[Hashable, Replay | None] = {}
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[type["Replays"], tuple[()]]:
        """Copies of a network begin anew: a replay points at memory."""
        return Replays, ()

    def find(self, key: Hashable, make: Callable[[], Replay]) -> Replay | None:
        """Return the replay of a pass; None where it comes for the first time.

        Args:
            key: Two passes that have it in common call the library with the same numbers.
            make: Notes such a pass. It is called when the pass comes for the second time.
        """
        with self._lock:
            if key not in self._found:
                self._found[key] = None
                while len(self._found) > MOST:
                    del self._found[next(iter(self._found))]
                return None
            if self._found[key] is None:
                self._found[key] = make()
                self._forget_others(key)
            return self._found[key]

    def _forget_others(self, key: Hashable) -> None:
        """Let replays go, those of the oldest kinds first, until what all hold is not too much."""
        for other in [other for other in self._found if other != key]:
            if sum(replay.arena.size for replay in self._found.values() if replay is not None) <= LARGEST:
                return
            del self._found[other]

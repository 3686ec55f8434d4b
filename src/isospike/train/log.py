"""What a run writes about its steps and epochs: ``metrics.jsonl``, ``flow.jsonl``, curves for TensorBoard."""

from collections.abc import Mapping
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self

from isospike.errors import RunFailed
from isospike.run_folder import MetricsWriter, RunFolder
from isospike.train.display import Display
from isospike.train.state import RunState
from isospike.train.tensorboard import Board, open_board


class Records:
    """The open files of a run, inside a ``with`` block; in processes other than the first there are none.

    Args:
        run: Where they lie.
        state: Where the run is: what stands behind that place in the files is dropped.
        flow: Whether flow is recorded.
        tensorboard: Whether there are curves for TensorBoard.
        display: Told where TensorBoard is missing.
        writes: Whether this process writes.

    Raises:
        ConfigError: a file cannot be written.
    """

    def __init__(
        self, run: RunFolder, state: RunState, *, flow: bool, tensorboard: bool, display: Display, writes: bool
    ) -> None:
        self._metrics: MetricsWriter | None = None
        self._flow: MetricsWriter | None = None
        self._board: Board | None = None
        with ExitStack() as opened:
            if writes:
                self._metrics = MetricsWriter(run.metrics, state.metrics_size)
                opened.callback(self._metrics.close)
                if flow:
                    self._flow = MetricsWriter(run.flow, state.flow_size)
                    opened.callback(self._flow.close)
                if tensorboard and (board := open_board(run.path, state.step, display)):
                    self._board = board
                    opened.callback(board.close)
            self._opened = opened.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Close all of them; where something has failed already, that is what is told, and not what it has led to."""
        try:
            self._opened.close()
        except RunFailed:
            if error is None:
                raise

    def write(self, record: Mapping[str, Any]) -> None:
        """A record of a step or an epoch.

        Raises:
            RunFailed: the disk does not take it.
        """
        if self._metrics:
            self._metrics.write(record)
        if self._board:
            self._board.write(record)

    def write_flow(self, record: Mapping[str, Any]) -> None:
        """What was seen in a step that was watched; raises as ``write``."""
        if self._flow:
            self._flow.write(record)
        if self._board:
            self._board.write({"kind": "step", "split": "train", **record})

    def note_sizes(self, state: RunState) -> None:
        """Put into ``state`` how much of the files belongs to it."""
        state.metrics_size = self._metrics.size if self._metrics else 0
        state.flow_size = self._flow.size if self._flow else 0

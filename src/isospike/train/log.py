"""What a run tells of its steps and epochs: ``metrics.jsonl``, ``flow.jsonl``, TensorBoard and the display."""

import time
from collections import deque
from collections.abc import Mapping
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self

from isospike.config import TrainSpec
from isospike.errors import RunFailed
from isospike.evaluation import Evaluation
from isospike.memory import peak_memory_mb
from isospike.processes import World
from isospike.run_folder import MetricsWriter, RunFolder
from isospike.train.display import Display
from isospike.train.state import RunState, Sums
from isospike.train.step import Figures, Taken
from isospike.train.tensorboard import Board, open_board


class Log:
    """The log of a run, open inside a ``with`` block; processes other than the first have no files.

    Args:
        run: Where the files lie.
        state: Where the run is: what stands behind that place in the files is dropped.
        train: How often to write, and whether there are curves for TensorBoard.
        world: The processes.
        display: Told of everything.
        flow: Whether flow is recorded.

    Raises:
        ConfigError: a file cannot be written.
    """

    def __init__(
        self, run: RunFolder, state: RunState, train: TrainSpec, world: World, display: Display, *, flow: bool
    ) -> None:
        self.state, self.train, self.world, self.display = state, train, world, display
        self._recent: deque[tuple[float, float]] = deque(maxlen=20)  # images and seconds of the last steps
        self._metrics: MetricsWriter | None = None
        self._flow: MetricsWriter | None = None
        self._board: Board | None = None
        with ExitStack() as opened:
            if world.is_first:
                self._metrics = MetricsWriter(run.metrics, state.metrics_size)
                opened.callback(self._metrics.close)
                if flow:
                    self._flow = MetricsWriter(run.flow, state.flow_size)
                    opened.callback(self._flow.close)
                if train.tensorboard and (board := open_board(run.path, state.step, display)):
                    self._board = board
                    opened.callback(board.close)
            self._opened = opened.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Close all files; where something has failed already, that is what is told, and not what it has led to."""
        try:
            self._opened.close()
        except RunFailed:
            if error is None:
                raise

    def start_clock(self) -> None:
        """Begin to measure the time of the next step here."""
        self._clock = time.perf_counter()

    def step(self, taken: Taken, figures: Figures) -> None:
        """Tell of a step.

        Raises:
            RunFailed: the disk does not take it.
        """
        self._take_time(figures.images)
        images, seconds = (sum(column) for column in zip(*self._recent, strict=True))
        record = {
            "kind": "step",
            "split": "train",
            "epoch": taken.epoch,
            "step": taken.step,
            **self.state.window.means(),
            "lr": taken.lr,
            "grad_norm": figures.grad_norm,
            "images_per_s": images / seconds,
            "peak_memory_mb": peak_memory_mb(self.world.device),
            "seconds": self.state.seconds,
        }
        self.display.step(record, taken.step)
        if taken.step % self.train.log_every == 0:
            self._write(record)
            self.state.window = Sums()
        if taken.flow is not None:
            self._write_flow({"epoch": taken.epoch, "step": taken.step, **taken.flow})

    def epoch(self, tested: Evaluation) -> None:
        """Tell of an epoch and its test; raises as ``step``."""
        state = self.state
        self.display.say(
            f"epoch {state.epoch}/{self.train.epochs}: train accuracy "
            f"{state.this_epoch.means()['accuracy']:.2%}, test accuracy {tested.accuracy:.2%}, "
            f"best {state.best.accuracy:.2%} in epoch {state.best.epoch}{left_out(state.this_epoch.left_out)}"
        )
        where = {"kind": "epoch", "epoch": state.epoch, "step": state.step}
        self._write({**where, "split": "train", **state.this_epoch.means(), "seconds": state.seconds})
        self._write({**where, "split": "test", "loss": tested.loss, "accuracy": tested.accuracy})

    def note_sizes(self) -> None:
        """Put into the state how much of the files belongs to it."""
        self.state.metrics_size = self._metrics.size if self._metrics else 0
        self.state.flow_size = self._flow.size if self._flow else 0

    def _take_time(self, images: float) -> None:
        """Measure from the end of the step before, so that waiting for data counts."""
        now = time.perf_counter()
        self._recent.append((images, now - self._clock))
        self.state.seconds += now - self._clock
        self._clock = now

    def _write(self, record: Mapping[str, Any]) -> None:
        if self._metrics:
            self._metrics.write(record)
        if self._board:
            self._board.write(record)

    def _write_flow(self, record: Mapping[str, Any]) -> None:
        if self._flow:
            self._flow.write(record)
        if self._board:
            self._board.write({"kind": "step", "split": "train", **record})


def left_out(steps: int) -> str:
    """Return a sentence's end about steps that moved nothing; "" for none."""
    if steps == 0:
        return ""
    return f"; {steps:,} step{'s' * (steps > 1)} left out, as the fp16 gradient was not finite"

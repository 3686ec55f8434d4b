"""What a person sees of a run: a live line on a terminal, plain lines elsewhere, nothing from other processes."""

import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from isospike.text import duration


class Display(ABC):
    """Told of every step and every test of a run."""

    @abstractmethod
    def begin(self, step: int, steps: int) -> None:
        """Training goes on from ``step`` of ``steps``."""

    @abstractmethod
    def step(self, record: Mapping[str, Any], step: int) -> None:
        """One optimiser step; ``record`` has epoch, loss, accuracy, images_per_s, peak_memory_mb."""

    @abstractmethod
    def say(self, text: str) -> None:
        """A line that stays."""

    @abstractmethod
    def end(self) -> None:
        """Training is over, whichever way."""


def figures(record: Mapping[str, Any]) -> str:
    """The figures of a step, in the order in which they are wanted."""
    return (
        f"epoch {record['epoch']}  loss {record['loss']:.4f}  accuracy {record['accuracy']:.1%}  "
        f"{record['images_per_s']:,.0f} images/s  {record['peak_memory_mb']:,.0f} MB"
    )


class LiveDisplay(Display):
    """A progress bar that is redrawn in place."""

    def __init__(self, console: Console) -> None:
        self.progress = Progress(
            TextColumn("step"),
            MofNCompleteColumn(),
            BarColumn(bar_width=None),
            TextColumn("{task.description}"),
            TimeRemainingColumn(compact=True),
            TextColumn("left"),
            console=console,
            speed_estimate_period=120,
        )

    def begin(self, step: int, steps: int) -> None:
        """Show the bar."""
        self.task = self.progress.add_task("", total=steps, completed=step)
        self.progress.start()

    def step(self, record: Mapping[str, Any], step: int) -> None:
        """Redraw it."""
        self.progress.update(self.task, completed=step, description=figures(record))

    def say(self, text: str) -> None:
        """Above the bar."""
        self.progress.console.print(text, highlight=False)

    def end(self) -> None:
        """Leave the bar as it is."""
        self.progress.stop()


class PlainDisplay(Display):
    """A line every ``seconds``, for logs."""

    def __init__(self, console: Console, seconds: float = 10.0) -> None:
        self.console, self.seconds = console, seconds

    def begin(self, step: int, steps: int) -> None:
        """Remember when and where the run began, for the time left."""
        self.first, self.steps = step, steps
        self.began = self.shown = time.monotonic()

    def step(self, record: Mapping[str, Any], step: int) -> None:
        """A line, if it is time for one."""
        now = time.monotonic()
        if now - self.shown < self.seconds and step < self.steps:
            return
        self.shown = now
        left = (now - self.began) / max(1, step - self.first) * (self.steps - step)
        self.say(f"step {step}/{self.steps}  {figures(record)}  {duration(left)} left")

    def say(self, text: str) -> None:
        """A line, never wrapped."""
        self.console.print(text, highlight=False, soft_wrap=True)

    def end(self) -> None:
        """Nothing to do."""


class SilentDisplay(Display):
    """For processes other than the first."""

    def begin(self, step: int, steps: int) -> None:
        """Nothing."""

    def step(self, record: Mapping[str, Any], step: int) -> None:
        """Nothing."""

    def say(self, text: str) -> None:
        """Nothing."""

    def end(self) -> None:
        """Nothing."""


def build_display(console: Console, *, is_first: bool) -> Display:
    """The display that fits the terminal and the process."""
    if not is_first:
        return SilentDisplay()
    return LiveDisplay(console) if console.is_terminal else PlainDisplay(console)

"""What a person sees of a run: a live line on a terminal, plain lines elsewhere, nothing from other processes."""

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn
from rich.table import Column
from rich.text import Text

from isospike.text import duration

BAR = 10  # columns that the bar has at least
ECHO = 3  # columns left free, where the terminal writes ^C: it would break a full line in two, and leave both


class Display(ABC):
    """Shows every step and every test of a run."""

    @abstractmethod
    def begin(self, step: int, steps: int) -> None:
        """Begin at ``step`` of ``steps``."""

    @abstractmethod
    def step(self, record: Mapping[str, Any], step: int) -> None:
        """Show one optimiser step; ``record`` has epoch, loss, accuracy, images_per_s, peak_memory_mb."""

    @abstractmethod
    def say(self, text: str) -> None:
        """Show a line that stays."""

    @abstractmethod
    def end(self) -> None:
        """End the display, whichever way training ended."""


def figures(record: Mapping[str, Any]) -> list[str]:
    """Return the figures of a step, in the order in which they are wanted."""
    return [
        f"epoch {record['epoch']}",
        f"loss {record['loss']:.4f}",
        f"accuracy {record['accuracy']:.1%}",
        f"{record['images_per_s']:,.0f} images/s",
        f"peak {record['peak_memory_mb']:,.0f} MB",
    ]


def fitting(parts: Sequence[str], width: int) -> str:
    """Join as many of the first parts as ``width`` columns take, each of them whole."""
    line = ""
    for part in parts:
        longer = f"{line}  {part}" if line else part
        if len(longer) > width:
            break
        line = longer
    return line


class FiguresColumn(ProgressColumn):
    """Shows the time left and the figures of the last step, as far as there is room beside the bar."""

    def __init__(self, console: Console) -> None:
        super().__init__(Column(no_wrap=True))
        self.console = console

    def render(self, task: Task) -> Text:
        """Render all in one line."""
        left = [] if task.time_remaining is None else [f"{duration(task.time_remaining)} left"]
        counter = len(f"step {task.total:.0f}/{task.total:.0f}")
        room = self.console.width - counter - BAR - 2 - ECHO
        return Text(fitting([*left, *task.fields["figures"]], room))


class Narrowed:
    """Draws something ``ECHO`` columns narrower than the terminal."""

    def __init__(self, drawn: RenderableType) -> None:
        self.drawn = drawn

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield from console.render(self.drawn, options.update_width(max(1, options.max_width - ECHO)))


class NarrowedProgress(Progress):
    """Progress that leaves room for the echo of Ctrl-C."""

    def get_renderables(self) -> Iterator[RenderableType]:
        """Yield the line."""
        yield Narrowed(self.make_tasks_table(self.tasks))


class LiveDisplay(Display):
    """A progress bar that is redrawn in place. In a narrow terminal the counter and the bar stay longest."""

    def __init__(self, console: Console) -> None:
        self.progress = NarrowedProgress(
            TextColumn("step"),
            MofNCompleteColumn(),
            BarColumn(bar_width=None, table_column=Column(ratio=1)),
            FiguresColumn(console),
            console=console,
            speed_estimate_period=120,
            expand=True,
        )

    def begin(self, step: int, steps: int) -> None:
        """Show the bar."""
        self.task = self.progress.add_task("", total=steps, completed=step, figures=[])
        self.progress.start()

    def step(self, record: Mapping[str, Any], step: int) -> None:
        """Redraw it."""
        self.progress.update(self.task, completed=step, figures=figures(record))

    def say(self, text: str) -> None:
        """Say it above the bar."""
        self.progress.console.print(text, highlight=False)

    def end(self) -> None:
        """Leave the bar as it is."""
        self.progress.stop()


class PlainDisplay(Display):
    """Prints a line every ``seconds``, for logs."""

    def __init__(self, console: Console, seconds: float = 10.0) -> None:
        self.console, self.seconds = console, seconds

    def begin(self, step: int, steps: int) -> None:
        """Remember when and where the run began, for the time left."""
        self.first, self.steps = step, steps
        self.began = self.shown = time.monotonic()

    def step(self, record: Mapping[str, Any], step: int) -> None:
        """Print a line, if it is time for one."""
        now = time.monotonic()
        if now - self.shown < self.seconds and step < self.steps:
            return
        self.shown = now
        left = (now - self.began) / max(1, step - self.first) * (self.steps - step)
        self.say(f"step {step}/{self.steps}  {'  '.join(figures(record))}  {duration(left)} left")

    def say(self, text: str) -> None:
        """Print a line, never wrapped."""
        self.console.print(text, highlight=False, soft_wrap=True)

    def end(self) -> None:
        """Do nothing."""


class SilentDisplay(Display):
    """Shows nothing, for processes other than the first."""

    def begin(self, step: int, steps: int) -> None:
        """Do nothing."""

    def step(self, record: Mapping[str, Any], step: int) -> None:
        """Do nothing."""

    def say(self, text: str) -> None:
        """Do nothing."""

    def end(self) -> None:
        """Do nothing."""


def build_display(console: Console, *, is_first: bool) -> Display:
    """Choose the display that fits the terminal and the process."""
    if not is_first:
        return SilentDisplay()
    return LiveDisplay(console) if console.is_terminal else PlainDisplay(console)

"""What a person sees of a run, in terminals of any width."""

import io

import pytest
from rich.console import Console

from isospike.cli.report import try_report
from isospike.train.display import BAR, ECHO, LiveDisplay, PlainDisplay, figures, fitting
from report_runs import make_run

RECORD = {"epoch": 3, "loss": 2.125, "accuracy": 0.3125, "images_per_s": 1341.0, "peak_memory_mb": 577.2}
FIGURES = ["epoch 3", "loss 2.1250", "accuracy 31.2%", "1,341 images/s", "peak 577 MB"]


def last_line(width, step, steps):
    """Of the live display, once it has shown a step."""
    console = Console(width=width, force_terminal=True, color_system=None, file=io.StringIO())
    display = LiveDisplay(console)
    display.begin(0, steps)
    display.step(RECORD, step)
    display.progress.refresh()
    display.end()
    *_, line = (line for line in console.file.getvalue().replace("\r", "\n").split("\n") if "step" in line)
    return line.removeprefix("\x1b[2K")


@pytest.mark.parametrize("width", [36, 40, 50, 80, 120, 200])
@pytest.mark.parametrize("steps", [9, 675, 100_000])
def test_counter_and_bar_survive_longest_and_figures_stay_whole(width, steps):
    """At the last step, where the bar is full; no line reaches the end of the terminal, where ^C would break it."""
    line = last_line(width, steps, steps)
    counter, _, shown = line.partition("━")
    assert counter == f"step {steps}/{steps} "
    assert line.count("━") >= min(BAR, width - ECHO - len(counter) - 2)
    assert len(line) <= width - ECHO
    left, *parts = [part for part in shown.strip("━ ").split("  ") if part] or [""]
    assert left in ("", "0 s left")
    assert parts == FIGURES[: len(parts)]
    assert bool(left) == (width - len(counter) - BAR - 1 - ECHO >= len("0 s left"))
    assert (parts == FIGURES) == (width >= 120)


def test_a_wide_terminal_gives_what_is_left_to_the_bar():
    assert last_line(200, 675, 675).count("━") > last_line(120, 675, 675).count("━") > BAR


def test_parts_are_left_out_from_the_end():
    assert figures(RECORD) == FIGURES
    assert fitting(FIGURES, 19) == "epoch 3"
    assert fitting(FIGURES, 20) == "epoch 3  loss 2.1250"
    assert fitting(["too long", "fits"], 5) == ""


def test_a_log_has_all_figures_however_narrow():
    console = Console(width=20, file=io.StringIO())
    display = PlainDisplay(console, seconds=0)
    display.begin(0, 675)
    display.step(RECORD, 675)
    assert console.file.getvalue() == f"step 675/675  {'  '.join(FIGURES)}  0 s left\n"


def test_a_report_that_is_being_written_is_said(tmp_path, capsys):
    run = make_run(tmp_path / "run")
    try_report(run)
    assert capsys.readouterr().out.split("\n") == ["writing the report ...", f"report: {run.report}", ""]

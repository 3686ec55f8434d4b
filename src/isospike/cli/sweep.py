"""``isospike sweep``: topologies x depths x seeds by one recipe, and what depth does to them."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from isospike.cli.console import Device, Import, Json, out, print_json
from isospike.errors import ConfigError, MissingExtra
from isospike.own_rows import import_rows, imports_again
from isospike.processes import choose_device
from isospike.report import write_sweep_figures, write_sweep_report
from isospike.run_folder import new_folder
from isospike.sweep import Sweep, collect, open_sweep, plan_sweep, run_sweep, save_plan, write_results
from isospike.train.display import build_display
from isospike.train.machine import follow_machine, note_emulated
from isospike.train.stopping import second_signal_ends

DEFAULTS = {"recipe": "digits_sweep", "topologies": "vanilla,sew,ms,ds", "depths": "8,20,32,56,110", "seeds": "0,1"}


def sweep_command(
    recipe: Annotated[str | None, typer.Option(help=f"Recipe or YAML file; {DEFAULTS['recipe']}.")] = None,
    topologies: Annotated[str | None, typer.Option(help=f"Such as {DEFAULTS['topologies']}, the default.")] = None,
    depths: Annotated[str | None, typer.Option(help=f"Of each; {DEFAULTS['depths']}.")] = None,
    seeds: Annotated[str | None, typer.Option(help=f"Of each network; {DEFAULTS['seeds']}.")] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUES", help="Change a key; several values, as optim.lr=0.1,0.05, are one more axis."
        ),
    ] = None,
    data_dir: Annotated[str | None, typer.Option(help="Folder of the images.")] = None,
    out_dir: Annotated[
        Path | None, typer.Option("--out", help="Sweep folder; by default a new one below runs/.")
    ] = None,
    resume: Annotated[Path | None, typer.Option(help="Sweep folder to go on with.")] = None,
    jobs: Annotated[str, typer.Option(help="Runs at once; auto: as cores and memory allow.")] = "auto",
    figures: Annotated[Path | None, typer.Option(help="Folder for every figure as SVG and PNG.")] = None,
    import_: Import = None,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Train many networks by one recipe, and compare accuracy, gradients and firing against depth.

    Every cell is a run folder of its own, which eval, analyze, energy and report understand. A cell that fails stops
    no other; a sweep that was stopped goes on with --resume.
    """
    import_rows(import_)
    count = _jobs(jobs)
    say = _say_nothing if json else _say
    given = {"recipe": recipe, "topologies": topologies, "depths": depths, "seeds": seeds}
    if resume is not None:
        if set_ or out_dir or any(value is not None for value in given.values()):
            raise ConfigError(
                "--resume goes on with a sweep as it was planned: it takes no axes, --recipe, --set or --out"
            )
        sweep = open_sweep(resume, data_dir)
    else:
        plan = {**DEFAULTS, **{key: value for key, value in given.items() if value is not None}}
        path = out_dir or new_folder(Path(plan["recipe"]).stem)
        sweep = plan_sweep(
            path,
            recipe=plan["recipe"],
            topologies=_list(plan["topologies"]),
            depths=_numbers("--depths", plan["depths"]),
            seeds=_numbers("--seeds", plan["seeds"]),
            changes=set_ or (),
            data_dir=data_dir,
            follow=lambda config: follow_machine(config, choose_device(device), say, asked=set_ or []),
        )
        save_plan(sweep)
    note_emulated((cell.config.train.precision for cell in sweep.cells), choose_device(device), say)
    with second_signal_ends(say):
        _train(sweep, count, device, say, quiet=json)
    result = show_sweep(sweep, json=json, figures=figures)
    left = result["states"]["begun"] + result["states"]["missing"]
    if left and not json:
        _say(f"{left} cells are left:  isospike sweep --resume {sweep.path}{imports_again()}")
    if left or result["states"]["failed"]:
        raise typer.Exit(1)


def show_sweep(sweep: Sweep, *, json: bool = False, figures: Path | None = None) -> dict[str, Any]:
    """Write and print what a sweep has shown so far."""
    result = collect(sweep)
    if json:
        print_json(result)
    else:
        _show(result)
    write_results(sweep, result)  # after it was said: the disk may not take it
    try:
        write_sweep_report(sweep.path, result)
        if figures is not None:
            write_sweep_figures(figures, result)
        page = f"report: {sweep.path / 'sweep.html'}"
    except MissingExtra as missing:
        page = f"no report: {missing}"
    if not json:
        _say(page)
    return result


def _train(sweep: Sweep, jobs: int | None, device: str, say: Callable[[str], None], *, quiet: bool) -> None:
    done, total = 0, len(sweep.cells)
    say(f"sweep folder {sweep.path}: {total} cells")
    for ended in run_sweep(
        sweep, jobs=jobs, device=device, display=lambda: build_display(out, is_first=not quiet), say=say
    ):
        done += ended.how != "interrupted"
        say(f"[{done}] {ended.cell.name}: {ended.how}{f': {ended.reason}' if ended.reason else ''}")


def _show(result: dict[str, Any]) -> None:
    note = f" ({result['note']})" if result["note"] else ""
    states = ", ".join(f"{count} {state}" for state, count in result["states"].items() if count)
    _say(f"{result['recipe']} on {result['data']}{note}: {states}; mean +- standard deviation over seeds, last epoch")
    out.print(_table(result["groups"]))
    _say("gradient: log10 of its norm before the first unit over that before the last, first backward; firing: spikes")
    _say("per neuron and step of the trained network; s: seconds of training steps")
    for finding in result["findings"]:
        _say(finding["text"])
    for row in result["rows"]:
        if row["state"] == "failed":
            _say(f"failed: {row['cell']}: {row['reason']}")


def _table(groups: list[dict[str, Any]]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("network", overflow="fold", min_width=min(24, max(len(group["series"]) for group in groups)))
    for heading in ("depth", "n", "train %", "test %", "gradient", "firing", "s"):
        table.add_column(heading, justify="right", no_wrap=True)
    for group in groups:
        table.add_row(
            group["series"],
            str(group["depth"]),
            str(group["test_accuracy"]["n"]),
            _percent(group["train_accuracy"]),
            _percent(group["test_accuracy"]),
            *(
                "-" if group[key]["mean"] is None else f"{group[key]['mean']:{form}}"
                for key, form in (("log10_gradient_ratio", "+.2f"), ("firing_rate", ".3f"), ("seconds", ".0f"))
            ),
        )
    return table


def _percent(of: dict[str, Any]) -> str:
    if of["mean"] is None:
        return "-"
    return f"{of['mean']:.2%}".rstrip("%") + ("" if of["sd"] is None else f" +- {100 * of['sd']:.2f}")


def _jobs(text: str) -> int | None:
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError("a sweep starts its own processes: run it without torchrun, with --jobs")
    if text == "auto":
        return None
    if not text.isdecimal() or int(text) < 1:
        raise ConfigError(f"--jobs is auto or a number from 1 on, got '{text}'")
    return int(text)


def _list(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _numbers(option: str, text: str) -> list[int]:
    for part in _list(text):
        if not part.isdecimal():
            raise ConfigError(f"{option} takes whole numbers with commas between them, got '{part}'")
    return [int(part) for part in _list(text)]


def _say_nothing(text: str) -> None:
    """Say nothing, for a program that reads the standard output."""


def _say(text: str) -> None:
    out.print(text, highlight=False, markup=False, soft_wrap=True)

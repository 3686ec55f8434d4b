"""``isospike bench``: how fast it is and how much memory it takes, beside its peers and its floor."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.table import Table

from isospike.bench import PEERS, SUITES, Case, Plan, line_up, measure_case
from isospike.bench.growth import covers, draw, growth_markdown
from isospike.bench.limits import Limits, machine_limits
from isospike.bench.saved import render_file
from isospike.bench.setup import python_of, set_up
from isospike.bench.table import COLUMNS, header_lines, lines, notes, refusals, title
from isospike.cli.console import Device, Import, Json, out, print_json
from isospike.errors import ConfigError, RunFailed
from isospike.own_rows import import_rows, imported
from isospike.processes import open_world
from isospike.registry import unknown_name
from isospike.run_folder import write_json
from isospike.train.environment import environment

WORKS = ("train", "infer")
PRECISIONS = ("float32", "bf16")


def bench_command(
    suite: Annotated[str | None, typer.Option(help=f"Rows to measure: {', '.join(SUITES)}.")] = None,
    model: Annotated[str | None, typer.Option(help="Measure this model instead of a suite.")] = None,
    work: Annotated[str | None, typer.Option(help="Of a model: train or infer; both where it is left out.")] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Of a model: images (32).")] = None,
    steps: Annotated[int | None, typer.Option("--T", min=1, help="Of a model: time steps (4).")] = None,
    precision: Annotated[str | None, typer.Option(help="Of a model: float32 or bf16.")] = None,
    peer: Annotated[
        str | None, typer.Option(help=f"{', '.join(PEERS)} or none; a suite keeps its rows against this one.")
    ] = None,
    compiled: Annotated[bool, typer.Option("--compile", help="Try peers under torch.compile as well (slow).")] = False,
    repeats: Annotated[int, typer.Option(min=3, help="Turns of every contestant.")] = 9,
    seconds: Annotated[float, typer.Option(min=0, help="Begin no further turn of a row after so long.")] = 25.0,
    peer_env: Annotated[Path, typer.Option(help="Environment of the peers.")] = Path(".bench"),
    setup: Annotated[bool, typer.Option("--setup", help="Make that environment, and measure nothing.")] = False,
    saved: Annotated[Path | None, typer.Option("--markdown", help="Print a saved result, and measure nothing.")] = None,
    target: Annotated[Path, typer.Option("--out", help="Where the result goes.")] = Path("bench.json"),
    import_: Import = None,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Measure images/s, time and peak memory beside a peer and beside the convolutions alone, all in this run.

    Exit code 1 where a peer does not compute the same: it then gets no ratio.
    """
    import_rows(import_)
    if setup:
        set_up(peer_env)
        return
    if saved is not None:
        typer.echo(render_file(saved))
        return
    cases = choose(suite, model, work=work, batch=batch, T=steps, precision=precision, peer=peer)
    with open_world(device) as world:
        header = {**environment(world.device), "threads": torch.get_num_threads(), "imports": imported()}
        place = str(world.device)
    header["limits"] = machine_limits(header["threads"]) if place == "cpu" else None
    plan = Plan(place, header["threads"], repeats, seconds)
    competing = [line_up(case, python_of(peer_env), place, compiled) for case in cases]
    result: dict[str, Any] = {"header": header, "rows": []}
    for case, group in zip(cases, competing, strict=True):
        row = measure_case(case, group, plan)
        result["rows"].append(row)
        if not json:
            show(row, header["limits"])
        write_json(target, result)
    finish(result, cases, target, json)


def choose(
    suite: str | None,
    model: str | None,
    *,
    work: str | None,
    batch: int | None,
    T: int | None,
    precision: str | None,
    peer: str | None,
) -> list[Case]:
    """Return the rows that the options ask for.

    Raises:
        ConfigError: a suite and a model, neither, or options of a model beside a suite.
        UnknownName: no such suite, work, precision or peer.
    """
    for what, value, names in (
        ("peer", peer, [*PEERS, "none"]),
        ("work", work, WORKS),
        ("precision", precision, PRECISIONS),
    ):
        if value is not None and value not in names:
            raise unknown_name(what, value, names)
    if (suite is None) == (model is None):
        raise ConfigError(f"isospike bench measures either --suite ({', '.join(SUITES)}) or --model NAME")
    if suite is not None:
        for option, given in (("--work", work), ("--batch", batch), ("--T", T), ("--precision", precision)):
            if given is not None:
                raise ConfigError(f"{option} goes with --model; a suite has its own")
        return _against(SUITES[suite](), suite, peer)
    assert model is not None
    opponent = None if peer in (None, "none") else peer
    asked = {"batch": batch, "T": T, "precision": precision}
    options: dict[str, Any] = {key: value for key, value in asked.items() if value is not None}
    return [Case(one, model, peer=opponent, **options) for one in ((work,) if work else WORKS)]  # type: ignore[arg-type]


def _against(cases: Sequence[Case], suite: str, peer: str | None) -> list[Case]:
    if peer is None:
        return list(cases)
    if peer == "none":
        alone = [replace(case, peer=None) for case in cases]
        return [case for index, case in enumerate(alone) if case not in alone[:index]]
    kept = [case for case in cases if case.peer == peer]
    if not kept:
        raise ConfigError(f"the suite '{suite}' has no row against {peer}")
    return kept


def show(row: dict[str, Any], limits: Limits | None) -> None:
    """Show one row on the terminal."""
    out.print(title(row), style="bold", highlight=False, markup=False, soft_wrap=True)
    table = Table(box=None, pad_edge=False, collapse_padding=True)
    for index, heading in enumerate(COLUMNS):
        table.add_column(
            heading, justify="right" if index else "left", no_wrap=bool(index), min_width=0 if index else 12
        )
    for line in lines(row):
        table.add_row(*line)
    out.print(table)
    for note in notes(row, limits):
        out.print(note, highlight=False, markup=False, soft_wrap=True)


def finish(result: dict[str, Any], cases: Sequence[Case], target: Path, json: bool) -> None:
    """Tell what follows from all rows: charts of growth, where it was saved, refusals."""
    if json:
        print_json(result)
    else:
        for line in header_lines(result):
            out.print(line, highlight=False, markup=False, soft_wrap=True)
        if covers(cases):
            out.print(growth_markdown(result), highlight=False, markup=False, soft_wrap=True)
            draw(result, target.parent / target.stem)
        out.print(f"saved in {target}", highlight=False, markup=False, soft_wrap=True)
    refused = [sentence for row in result["rows"] for sentence in refusals(row)]
    if refused:
        raise RunFailed("; ".join(refused))

"""``isospike train``: a new run from a recipe, or an old one taken up again."""

from collections.abc import Sequence
from contextlib import ExitStack
from json import dumps
from pathlib import Path
from typing import Annotated

import typer

from isospike.cli.console import Device, Import, out
from isospike.cli.report import try_report
from isospike.config import RunConfig, apply_overrides, read_config, with_data_dir, with_epochs
from isospike.data import Dataset, load_dataset
from isospike.errors import ConfigError
from isospike.optimizers import learning_parameters
from isospike.own_rows import import_rows, imports_again
from isospike.processes import World, open_world
from isospike.recipes import load_recipe
from isospike.run_folder import RunFolder, new_folder
from isospike.train import Outcome, Trainer
from isospike.train.display import Display, build_display
from isospike.train.log import left_out
from isospike.train.machine import follow_machine, limit_workers, note_emulated
from isospike.train.start import complete_run, create_run
from isospike.train.stopping import second_signal_ends
from isospike.train.waiting import waiting_for


def train_command(
    recipe: Annotated[str | None, typer.Option(help="Name of a recipe, or a YAML file.")] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a key, as optim.lr=0.05; may be given again."),
    ] = None,
    from_: Annotated[
        Path | None,
        typer.Option(
            "--from",
            metavar="RUN",
            help="Begin as this run is: its configuration in place of a recipe, and its weights.",
        ),
    ] = None,
    data_dir: Annotated[str | None, typer.Option(help="Folder of the images.")] = None,
    weights: Annotated[
        str | None, typer.Option(metavar="RUN_OR_FILE", help="Start from these weights; train.weights does the same.")
    ] = None,
    out_dir: Annotated[Path | None, typer.Option("--out", help="Run folder; by default a new one below runs/.")] = None,
    resume: Annotated[Path | None, typer.Option(help="Run folder to go on with.")] = None,
    max_steps: Annotated[int | None, typer.Option(min=1, help="Stop after this many optimiser steps in all.")] = None,
    import_: Import = None,
    device: Device = "auto",
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of everything that draws.")] = None,
) -> None:
    """Train a model by a recipe, with a live display, checkpoints and a report at the end.

    What isospike convert has written is trained on with --from.
    """
    import_rows(import_)
    if resume is not None and (recipe or from_ or out_dir or weights is not None or seed is not None):
        raise ConfigError(
            "--resume goes on with a run as it was: it takes no --recipe, --from, --out, --weights or --seed, and of "
            "--set train.epochs only"
        )
    if from_ is not None and (recipe or weights is not None):
        raise ConfigError("--from takes configuration and weights of a run: leave --recipe and --weights out")
    if resume is None and recipe is None and from_ is None:
        raise ConfigError(
            "name a recipe with --recipe, a run to begin from with --from, or one to go on with by --resume; "
            "isospike recipes lists recipes"
        )
    with open_world(device) as world:
        display = build_display(out, is_first=world.is_first)
        if resume is not None:
            run = RunFolder(resume)
            config = limit_workers(with_data_dir(with_epochs(run.read_config(), set_ or []), data_dir), display.say)
        else:
            changes = _overrides(set_, weights if from_ is None else str(from_), seed)
            config = load_recipe(recipe or "", changes) if from_ is None else _begun(RunFolder(from_), changes)
            config = with_data_dir(config, data_dir)
            config = follow_machine(config, world.device, display.say, asked=set_ or [])
            run = RunFolder(world.agree(out_dir or new_folder(config.recipe)))
        note_emulated([config.train.precision], world.device, display.say)
        _train(config, run, world, display, resuming=resume is not None, max_steps=max_steps)


def _begun(run: RunFolder, changes: Sequence[str]) -> RunConfig:
    """Read the configuration of a run, changed, for one that begins with its weights."""
    config = run.read_config()
    return read_config(apply_overrides(config.model_dump(mode="json"), changes), f"--from {run.path}")


def _overrides(set_: list[str] | None, weights: str | None, seed: int | None) -> list[str]:
    own = {"train.weights": weights, "seed": seed}
    return [*(set_ or []), *(f"{key}={dumps(value)}" for key, value in own.items() if value is not None)]


def _train(
    config: RunConfig, run: RunFolder, world: World, display: Display, *, resuming: bool, max_steps: int | None
) -> None:
    with waiting_for("reading the images ...", display.say):
        dataset = load_dataset(config.data)
    trainer = Trainer(config, dataset, run, world, display)
    with waiting_for("finding out on a few images how much memory a step takes ...", display.say):
        plan = trainer.plan()
    if not resuming:
        trainer.start()  # before anything is written: the weights may not fit

    def prepare() -> None:
        run.check_space(trainer.persistence.most_bytes())
        stack.enter_context(run.locked())
        (complete_run if resuming else create_run)(run, config, dataset, world.device)

    with ExitStack() as stack:
        world.first_does(prepare)
        _announce(config, dataset, run, trainer, display)
        display.say(
            f"a training step will take about {plan.further / 1e6:,.0f} MB (train.memory={plan.memory}) on top of what "
            "the process holds; the peak beside the steps is both together"
        )
        if resuming:
            trainer.resume()
            world.first_does(lambda: run.keep_epochs(config.train.epochs))
            display.say(f"resumed at step {trainer.state.step} of {trainer.steps}")
        stack.enter_context(second_signal_ends(display.say))
        outcome = trainer.fit(max_steps=max_steps)
        if world.is_first:
            _conclude(outcome, dataset, run, trainer, display)
            try_report(run)
    if outcome == "interrupted":
        raise typer.Exit(1)


def _announce(config: RunConfig, dataset: Dataset, run: RunFolder, trainer: Trainer, display: Display) -> None:
    note = f" ({dataset.note})" if dataset.note else ""
    parameters = sum(p.numel() for p in trainer.model.parameters())
    learning = sum(p.numel() for p in learning_parameters(trainer.model))
    frozen = f" ({learning:,} of them learn)" if learning < parameters else ""
    display.say(
        f"{config.model.name}, T={trainer.model.T}, {parameters:,} parameters{frozen}, on {dataset.name}{note}: "
        f"{len(dataset.train):,} training and {len(dataset.test):,} test images; run folder {run.path}"
    )


def _conclude(outcome: Outcome, dataset: Dataset, run: RunFolder, trainer: Trainer, display: Display) -> None:
    state = trainer.state
    if outcome != "done":
        why = f"got {trainer.stop.signal}" if outcome == "interrupted" else "--max-steps"
        saved = f"all of it is saved{left_out(state.left_out)}"
        display.say(f"stopped at step {state.step} of {trainer.steps} ({why}); {saved}")
        display.say(f"  go on:  isospike train --resume {run.path}{imports_again()}")
        display.say(f"  test:   isospike eval {run.path}{imports_again()}")
        return
    note = f" ({dataset.note})" if dataset.note else ""
    display.say(
        f"test accuracy{note}: last epoch {state.last_accuracy:.2%}, "
        f"best epoch {state.best.accuracy:.2%} (epoch {state.best.epoch}, chosen on the test images)"
        f"{left_out(state.left_out)}"
    )

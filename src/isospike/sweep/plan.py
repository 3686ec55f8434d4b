"""What a sweep is made of: the recipe, the axes, and a cell for every combination.

A sweep folder holds ``plan.json`` (complete: the recipe may change or go), a run folder for every cell, and the results
of all in ``sweep.json`` and ``sweep.html``.
"""

import itertools
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import NonNegativeInt, PositiveInt, ValidationError

from isospike.config import RunConfig, apply_overrides, read_config, tuples, with_data_dir
from isospike.errors import ConfigError, UnknownName
from isospike.models import create_model
from isospike.own_rows import imports_again
from isospike.recipes import load_recipe
from isospike.residual import TOPOLOGIES
from isospike.run_folder import RunFolder, read_json, write_json
from isospike.spec import Spec
from isospike.text import brief

PLAN = "plan.json"
OWN_KEYS = {"model.name": "--topologies and --depths", "seed": "--seeds", "recipe": "--recipe"}


class Plan(Spec):
    """``plan.json``. ``grid`` has a list of values, as YAML text, for every key that varies."""

    topologies: tuple[str, ...]
    depths: tuple[PositiveInt, ...]
    seeds: tuple[NonNegativeInt, ...]
    grid: dict[str, tuple[str, ...]]
    base: dict[str, Any]


@dataclass(frozen=True)
class Cell:
    """One run of a sweep.

    Args:
        name: Of its run folder.
        topology: First part of its model's name.
        depth: Last part.
        seed: Of the run.
        changes: Its value, as YAML text, of every key of the grid.
        config: The whole of it.
    """

    name: str
    topology: str
    depth: int
    seed: int
    changes: Mapping[str, str]
    config: RunConfig

    @property
    def series(self) -> str:
        """What it is compared as: its topology, and what else the grid makes of it."""
        return " ".join([self.topology, *(f"{key}={value}" for key, value in self.changes.items())])


@dataclass(frozen=True)
class Sweep:
    """A plan and its folder."""

    path: Path
    plan: Plan

    @property
    def cells(self) -> list[Cell]:
        """Every combination, in the order of the axes; a value of the grid may make its configuration wrong.

        Raises:
            ConfigError: it does.
        """
        values = itertools.product(*self.plan.grid.values())
        rest = [dict(zip(self.plan.grid, chosen, strict=True)) for chosen in values]
        axes = itertools.product(self.plan.topologies, self.plan.depths, rest, self.plan.seeds)
        return [self._cell(*place) for place in axes]

    def folder(self, cell: Cell) -> RunFolder:
        """Return the run folder of a cell."""
        return RunFolder(self.path / cell.name)

    def _cell(self, topology: str, depth: int, changes: dict[str, str], seed: int) -> Cell:
        model = f"{topology}_resnet{depth}"
        settings = [f"{key}={value}" for key, value in changes.items()]
        overrides = [f"model.name={model}", f"seed={seed}", *settings]
        config = read_config(apply_overrides(self.plan.base, overrides), f"{model} {' '.join(settings)}".strip())
        name = "-".join([model, *(re.sub(r"[^\w.=+]+", "_", text).strip("_") for text in settings), f"seed{seed}"])
        return Cell(name, topology, depth, seed, changes, config)


def plan_sweep(
    path: Path,
    *,
    recipe: str,
    topologies: Sequence[str],
    depths: Sequence[int],
    seeds: Sequence[int],
    changes: Sequence[str] = (),
    data_dir: str | None = None,
    follow: Callable[[RunConfig], RunConfig] | None = None,
) -> Sweep:
    """Plan a new sweep; every cell is checked, and nothing is written.

    Args:
        path: Its folder.
        recipe: What all cells train by, but for their network, their seed and the grid.
        topologies: Such as "ms".
        depths: Of every topology.
        seeds: Of every network.
        changes: ``key=value``, or ``key=value,value,...`` for an axis of the grid; commas inside brackets part nothing.
        data_dir: Folder of the images, where the recipe's data has one.
        follow: From what the recipe says to what this machine trains; None: the same.

    Raises:
        UnknownName: no such topology, depth, option or recipe; the text names the nearest.
        ConfigError: an axis without a value or with one twice, or a wrong configuration of a cell, or a recipe of a
            converted network.
    """
    grid: dict[str, tuple[str, ...]] = {}
    constants = []
    for change in changes:
        key, equals, text = change.partition("=")
        if key in OWN_KEYS:
            raise ConfigError(f"--set {key}: a sweep takes it from {OWN_KEYS[key]}")
        values = split_values(text) if equals else []
        if len(values) > 1 and key in grid:
            raise ConfigError(f"--set {key} is given twice")
        if len(values) > 1:
            grid[key] = tuple(values)
        else:
            constants.append(change)
    config = with_data_dir(load_recipe(recipe, constants), data_dir)
    if config.network is not None:
        raise ConfigError(f"the recipe {recipe} is of a converted network, and a sweep builds networks by their names")
    base = (follow(config) if follow else config).model_dump(mode="json")
    plan = Plan(topologies=tuple(topologies), depths=tuple(depths), seeds=tuple(seeds), grid=grid, base=base)
    sweep = Sweep(path, plan)
    for cell in _checked_cells(sweep):
        if cell.seed == seeds[0]:
            with torch.device("meta"):  # without memory: wrong options are found before anything trains
                create_model(**cell.config.model.model_dump())
    return sweep


def save_plan(sweep: Sweep) -> None:
    """Make the folder of a new sweep.

    Raises:
        ConfigError: there is one in it already, or it cannot be written.
    """
    if (sweep.path / PLAN).exists():
        raise ConfigError(
            f"{sweep.path} already holds a sweep: continue it with --resume {sweep.path}{imports_again()}, "
            "or name another --out"
        )
    try:
        sweep.path.mkdir(parents=True, exist_ok=True)
        write_json(sweep.path / PLAN, sweep.plan.model_dump(mode="json"))
    except OSError as error:
        raise ConfigError(f"cannot write the sweep folder {sweep.path}: {error.strerror}") from error


def open_sweep(path: Path, data_dir: str | None = None) -> Sweep:
    """Open the sweep in a folder.

    Raises:
        ConfigError: there is none, or its plan is damaged.
    """
    if not (path / PLAN).is_file():
        raise ConfigError(f"{path} is not a sweep folder: it holds no {PLAN}")
    values = read_json(path / PLAN)
    try:
        plan = Plan.model_validate(tuples(values))
    except ValidationError as error:
        first = error.errors()[0]
        place = brief(".".join(map(str, first["loc"])))
        raise ConfigError(f"{path / PLAN} is damaged: {place}: {first['msg'].lower()}") from error
    base = with_data_dir(read_config(plan.base, str(path / PLAN)), data_dir).model_dump(mode="json")
    sweep = Sweep(path, plan.model_copy(update={"base": base}))
    try:
        _checked_cells(sweep)
    except (ConfigError, UnknownName) as error:
        raise ConfigError(f"{path / PLAN} is damaged: {brief(str(error), 300)}") from error
    return sweep


def split_values(text: str) -> list[str]:
    """Split at the commas that stand in no bracket: "1,2" has two parts, "[1,2]" one.

    Raises:
        ConfigError: an empty part.
    """
    parts, depth = [""], 0
    for character in text:
        depth += (character in "[{") - (character in "]}")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    if len(parts) > 1 and not all(part.strip() for part in parts):
        raise ConfigError(f"there is nothing between two commas of '{text}'")
    return [part.strip() for part in parts]


def _checked_cells(sweep: Sweep) -> list[Cell]:
    """Check the cells of a sweep, each with a run folder of its own.

    Raises:
        UnknownName: no such topology.
        ConfigError: an axis without a value or with one twice, or a cell whose configuration is wrong.
    """
    plan = sweep.plan
    axes = {"--topologies": plan.topologies, "--depths": plan.depths, "--seeds": plan.seeds, **plan.grid}
    for name, axis in axes.items():
        _check_axis(name, axis)
    for topology in plan.topologies:
        TOPOLOGIES[topology]
    cells = sweep.cells
    for name, times in Counter(cell.name for cell in cells).items():
        if times > 1:
            raise ConfigError(f"{times} cells of this sweep would share the run folder {name}: rename their values")
    return cells


def _check_axis(name: str, values: Sequence[Any]) -> None:
    if not values:
        raise ConfigError(f"{name} needs at least one value")
    for value, times in Counter(map(str, values)).items():
        if times > 1:
            raise ConfigError(f"{name}: {value} is given twice")

"""Finding and reading recipes.

A recipe may name another as its ``base`` and say only what differs. The comment on its top gives source, command,
expected time and expected result.
"""

import fnmatch
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from isospike.config import RunConfig, apply_overrides, read_config, read_yaml
from isospike.errors import ConfigError
from isospike.own_rows import imported
from isospike.registry import unknown_name

FOLDER = Path(__file__).parent


def list_recipes(pattern: str = "*") -> list[str]:
    """List the recipes in the package whose names match a shell pattern, such as ``"cifar10_*"``."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml") if fnmatch.fnmatchcase(path.stem, pattern))


def load_recipe(recipe: str, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a recipe, with overrides put in, and with the code of one's own that was imported.

    Args:
        recipe: A name, or the path of a YAML file.
        overrides: ``dotted.key=value`` each.

    Raises:
        UnknownName: no such recipe; the text names the nearest.
        ConfigError: a file that cannot be read, or a wrong key or value.
    """
    values = _read(_path(recipe), seen=())
    values.setdefault("recipe", Path(recipe).stem)
    values.setdefault("objective", {"kind": "cross_entropy"})  # the default, whose keys an override may change
    config = read_config(apply_overrides(values, overrides), f"recipe {recipe}")
    return config.model_copy(update={"imports": {**config.imports, **imported()}})


def describe_recipe(recipe: str) -> str:
    """Return the comment on top of a recipe."""
    lines = _path(recipe).read_text(encoding="utf-8").splitlines()
    top = next((number for number, line in enumerate(lines) if not line.startswith("#")), len(lines))
    return "\n".join(line.removeprefix("#").removeprefix(" ") for line in lines[:top])


def recipe_title(recipe: str) -> str:
    """Return what a recipe trains, in a line: the first paragraph of its comment."""
    return " ".join(describe_recipe(recipe).split("\n\n")[0].split())


def _path(recipe: str) -> Path:
    if recipe.endswith((".yaml", ".yml")):
        return Path(recipe)
    if recipe not in list_recipes():
        raise unknown_name("recipe", recipe, list_recipes())
    return FOLDER / f"{recipe}.yaml"


def _read(path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    if path in seen:
        raise ConfigError(f"{path}: its base leads back to itself")
    values = read_yaml(path)
    base = values.pop("base", None)
    if base is None:
        return values
    return _merge(_read(_path(str(base)), (*seen, path)), values)


def _merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``base`` with ``changes`` put in, key by key; a part that changes its kind is replaced whole."""
    merged = dict(base)
    for key, value in changes.items():
        merged[key] = _merged(merged.get(key), value)
    return merged


def _merged(old: Any, new: Any) -> Any:
    if not isinstance(old, Mapping) or not isinstance(new, Mapping):
        return new
    return _merge(old, new) if new.get("kind") in (None, old.get("kind")) else new

"""From values and overrides to a configuration; every error is one sentence with the nearest right key."""

import copy
import difflib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from isospike.config.specs import RunConfig
from isospike.config.yaml_text import DEEPEST, parse_yaml
from isospike.data import DataSpec
from isospike.errors import ConfigError
from isospike.own_rows import check_imported
from isospike.spec import Kinds
from isospike.text import brief


def apply_overrides(values: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Return ``values`` with each ``dotted.key=value`` put in; the value is read as YAML.

    Raises:
        ConfigError: an override without ``=``, or a path through something that has no keys.
    """
    changed = copy.deepcopy(dict(values))
    for override in overrides:
        path, equals, text = override.partition("=")
        if not equals or not path:
            raise ConfigError(f"--set takes key=value, as optim.lr=0.05, got '{brief(override)}'")
        if path.count(".") >= DEEPEST:
            raise ConfigError(f"--set {brief(path)}: no key is more than {DEEPEST} levels deep")
        *parents, last = path.split(".")
        place: dict[str, Any] = changed
        for parent in parents:
            below = place.setdefault(parent, {})
            if below is None:
                below = place[parent] = {}
            if not isinstance(below, dict):
                raise ConfigError(f"--set {brief(path)}: '{brief(parent)}' is {brief(repr(below))}, which has no keys")
            place = below
        place[last] = parse_yaml(text, f"--set {brief(path)}")
    return changed


def read_config(values: Mapping[str, Any], origin: str) -> RunConfig:
    """Return a checked configuration.

    Raises:
        ConfigError: what is wrong with the first wrong key, where, and what would be right; or it was made with code of
            one's own that has not been imported.
    """
    check_imported(values.get("imports"), origin)
    try:
        return RunConfig.model_validate(tuples(values))
    except ValidationError as error:
        errors = error.errors()
        more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
        raise ConfigError(f"{origin}: {_sentence(errors[0], values)}{more}") from error


def with_data_dir(config: RunConfig, data_dir: str | None) -> RunConfig:
    """Return the same run with its images in another folder; None changes nothing.

    Raises:
        ConfigError: its data is not read from a folder.
    """
    if data_dir is None:
        return config
    return config.model_copy(update={"data": _in_folder(config.data, data_dir)})


def _in_folder(data: DataSpec, folder: str) -> DataSpec:
    images = getattr(data, "images", None)
    if isinstance(images, DataSpec):
        return data.model_copy(update={"images": _in_folder(images, folder)})
    if "dir" not in type(data).model_fields:
        raise ConfigError(f"the data '{data.kind}' is not read from a folder: leave --data-dir out")
    return data.model_copy(update={"dir": folder})


def with_data_keys(config: RunConfig, overrides: Sequence[str]) -> RunConfig:
    """Return the same run with keys of its data changed, to test it on other images or at another size.

    Args:
        config: Of a trained run.
        overrides: ``data.key=value`` each.

    Raises:
        ConfigError: a key of another part, which would make it another run; or a wrong key or value.
    """
    for override in overrides:
        if not override.startswith("data."):
            raise ConfigError(
                f"the --set of a trained run takes keys of data only, as data.test_size=288, got '{brief(override)}'"
            )
    return read_config(apply_overrides(config.model_dump(mode="json"), overrides), "--set") if overrides else config


def with_epochs(config: RunConfig, overrides: Sequence[str]) -> RunConfig:
    """Return the same run with another number of epochs, which is all that may change where it goes on.

    Args:
        config: Of a run.
        overrides: ``train.epochs=N``, or nothing.

    Raises:
        ConfigError: another key, or a wrong value.
    """
    for override in overrides:
        if override.partition("=")[0] != "train.epochs":
            raise ConfigError(
                f"--resume goes on with a run as it was: its --set takes train.epochs only, as train.epochs=200, "
                f"got '{override}'"
            )
    return read_config(apply_overrides(config.model_dump(mode="json"), overrides), "--set") if overrides else config


def find_key(word: str) -> str | None:
    """Find the whole key of a run that ends in ``word``, as "optim.lr" for "lr"; of a part its name or kind."""
    keys = {
        part: [key for spec in _specs_of(field) for key in spec.model_fields]
        for part, field in RunConfig.model_fields.items()
    }
    if word in keys:
        return next((f"{word}.{key}" for key in ("name", "kind") if key in keys[word]), None if keys[word] else word)
    return next((f"{part}.{word}" for part in keys if word in keys[part] and word not in ("name", "kind")), None)


def tuples(value: Any) -> Any:
    """Turn lists into tuples: YAML has lists only, and strict models take tuples."""
    if isinstance(value, Mapping):
        return {key: tuples(item) for key, item in value.items()}
    return tuple(tuples(item) for item in value) if isinstance(value, list) else value


def _sentence(error: ErrorDetails, values: Mapping[str, Any]) -> str:
    """Return one of pydantic's errors in a sentence."""
    place = brief(".".join(str(part) for part in _without_tags(error["loc"], values)))
    got = brief(repr(error["input"]))
    if error["type"] == "extra_forbidden":
        return f"unknown key '{place}'{_nearest_key(error['loc'])}"
    if error["type"] == "missing":
        return f"the key '{place}' is missing"
    if error["type"] == "union_tag_invalid":
        expected = error["ctx"]["expected_tags"].replace("'", "")
        return f"{place}.kind is '{brief(str(error['ctx']['tag']))}', which is none of {expected}"
    if error["type"] == "union_tag_not_found":
        return f"the key '{place}.kind' is missing"
    if error["type"] in ("model_type", "model_attributes_type", "dict_type"):
        return f"{place} must hold keys and values, got {got}"
    if error["type"] == "value_error":
        return f"{place}: {error['ctx']['error']}" if place else str(error["ctx"]["error"])
    message = error["msg"]
    return f"{place}: {message[0].lower()}{message[1:]}, got {got}"


def _without_tags(loc: tuple[int | str, ...], values: Any) -> Iterator[int | str]:
    """Yield the path as the user wrote it: pydantic puts the kind of a union into it."""
    for part in loc:
        if isinstance(values, Mapping) and part not in values and values.get("kind") == part:
            continue
        values = values.get(part) if isinstance(values, Mapping) else None
        yield part


def _nearest_key(loc: tuple[int | str, ...]) -> str:
    """Return the nearest keys that exist where an unknown one was given."""
    keys = _keys_at(loc[:-1])
    near = difflib.get_close_matches(brief(str(loc[-1])), keys, n=3, cutoff=0.6)
    return f"; nearest: {', '.join(near)}" if near else f"; keys there are {', '.join(keys)}"


def _keys_at(path: tuple[int | str, ...]) -> list[str]:
    """List the keys of the models that ``path`` leads to; it may hold the kind of a union, as pydantic's paths do."""
    specs: list[type[BaseModel]] = [RunConfig]
    for part in map(str, path):
        of_kind = [spec for spec in specs if part in _kinds(spec)]
        below = [spec.model_fields[part] for spec in specs if part in spec.model_fields]
        specs = of_kind or [inner for field in below for inner in _specs_of(field)]
    return [key for spec in specs for key in spec.model_fields]


def _kinds(spec: type[BaseModel]) -> tuple[str, ...]:
    return get_args(spec.model_fields["kind"].annotation) if "kind" in spec.model_fields else ()


def _specs_of(field: FieldInfo) -> list[type[BaseModel]]:
    """List the models that a field takes: those registered, where it takes the rows of a registry."""
    rows = [row for kinds in field.metadata if isinstance(kinds, Kinds) for row in kinds.rows()]
    return rows or _specs_in(field.annotation)


def _specs_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [spec for member in get_args(annotation) for spec in _specs_in(member)]

"""A model in a folder, as the Hugging Face hub keeps it: ``model.safetensors`` and ``config.json``."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

from isospike.errors import CheckpointError, ConfigError, IsospikeError
from isospike.models import ProgramNet, SpikingNetwork
from isospike.models.zoo import check_model_options
from isospike.optional import import_optional
from isospike.weights.files import Tensors, load_tensors, save_tensors
from isospike.weights.saved import Saved, build_saved, read_inputs

LIBRARY = "isospike"
WEIGHTS, CONFIG = "model.safetensors", "config.json"
RUN = "config.yaml"  # what makes a folder that of a run


def save_pretrained(model: SpikingNetwork, folder: Path | str) -> None:
    """Write ``model.safetensors`` and ``config.json``, all that ``from_pretrained`` needs.

    Args:
        model: Made by ``create_model`` or converted, trained or not. What its ``inputs`` say is written too.
        folder: Made where it is not there; files of these names in it are replaced.

    Raises:
        ConfigError: its options or its program cannot be written, or it has neither.
        RunFailed: the disk does not take it.
    """
    from isospike.run_folder import write_json  # here: it brings pydantic, which importing isospike does without

    folder = Path(folder)
    kind, said = _description(model)
    config = {
        "library_name": LIBRARY,
        "isospike_version": metadata.version("isospike"),
        kind: said,
        "inputs": model.inputs.as_dict() if model.inputs else None,
        "initialised_from": getattr(model, "initialised_from", None),
    }
    # It stands in both files, so that two halves of different saves are not taken for one model.
    save_tensors(folder / WEIGHTS, model.state_dict(), {kind: said})
    write_json(folder / CONFIG, config)


def from_pretrained(
    source: Path | str,
    *,
    revision: str | None = None,
    checkpoint: str | None = None,
    num_classes: int | None = None,
    **changes: Any,
) -> SpikingNetwork:
    """Load the model that ``save_pretrained`` wrote or that a run trained, with its weights, in eval mode.

    Args:
        source: A folder of ``save_pretrained`` or of a run; or, where there is none of this name, an id ``owner/name``
            on the Hugging Face hub.
        revision: Branch, tag or commit on the hub.
        checkpoint: Which weights of a run: "last" or "best". None: those at the end of training; where it has not
            ended, those of the last checkpoint, which a warning says.
        num_classes: Another number of classes than the saved one gets a new, untrained classifier, which a warning
            says; 0 leaves a backbone.
        changes: Options of ``create_model`` that replace the saved ones, such as ``T=4``; the weights must still fit.

    Raises:
        CheckpointError: no such folder or id, files missing, damaged, of another library or of two different saves,
            or weights that do not fit; the text names the first name or shape.
        ConfigError: ``config.json`` or a file of the run is damaged, the options contradict each other, or they ask for
            feature maps, which ``FeatureMaps`` takes from the model.
        UnknownName: an option that ``create_model`` does not have.
        MissingExtra: an id, and huggingface_hub is not installed.
    """
    from isospike.weights.trained import read_run  # as above

    folder = _folder(source, revision)
    is_run = (folder / RUN).is_file() and not (folder / CONFIG).is_file()
    if checkpoint is not None and not is_run:
        raise CheckpointError(
            f"checkpoint='{checkpoint}' is for the folder of a run, and {source} is none: leave it out"
        )
    if is_run:
        return build_saved(read_run(folder, checkpoint), num_classes, **changes)
    config = _read_config(folder / CONFIG)
    with _naming_a_newer_version(config, folder / CONFIG):
        _check_options(config, folder / CONFIG)
        return build_saved(_read_folder(folder, config), num_classes, **changes)


def _description(model: SpikingNetwork) -> tuple[str, dict[str, Any]]:
    """Describe what builds the model again: the options of ``create_model``, or a program; and name it."""
    if isinstance(model, ProgramNet):
        return "network", model.as_json()
    if not model.options:
        raise ConfigError("this model was not made by create_model, so no config.json could build it again")
    _check_plain(model.options, "options")
    return "options", model.options


def _check_plain(value: Any, where: str) -> None:
    """Refuse what JSON would not give back as it is: objects, and keys that are no text."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if not isinstance(key, str):
                raise ConfigError(f"the model's {where} has the key {key!r}, and config.json has only text as keys")
            _check_plain(inner, f"{where}.{key}")
    elif isinstance(value, list):
        for inner in value:
            _check_plain(inner, where)
    elif not (value is None or isinstance(value, str | int | float)):
        raise ConfigError(
            f"the model's {where} is {value!r}, which config.json cannot hold: "
            "create the model with a name or {kind: name, ...} in its place"
        )


def _weights_of(folder: Path, kind: str, config: Mapping[str, Any]) -> Tensors:
    """Read the weights beside a ``config.json``, where both are of one save."""
    tensors, meta = load_tensors(folder / WEIGHTS)
    if meta.get(kind) != config[kind]:
        raise CheckpointError(
            f"{CONFIG} and {WEIGHTS} in {folder} are of different saves: save the model again, "
            "and give options that shall differ to from_pretrained"
        )
    return tensors


def _read_folder(folder: Path, config: Mapping[str, Any]) -> Saved:
    """Read what ``save_pretrained`` wrote."""
    kind = "network" if "network" in config else "options"
    tensors = _weights_of(folder, kind, config)
    inputs = config.get("inputs")  # folders of older versions have none
    return Saved(
        options=config["options"] if kind == "options" else {},
        tensors=tensors,
        config=folder / CONFIG,
        weights=folder / WEIGHTS,
        inputs=None if inputs is None else read_inputs(inputs, folder / CONFIG),
        initialised_from=config.get("initialised_from"),
        network=config.get("network"),
    )


def _read_config(path: Path) -> dict[str, Any]:
    """Read a ``config.json`` of this library."""
    from isospike.run_folder import read_json  # as above

    if not path.is_file():
        raise CheckpointError(f"{path} does not exist: save_pretrained writes it, beside {WEIGHTS}")
    config = read_json(path)
    library = config.get("library_name") if isinstance(config, dict) else None
    if library != LIBRARY:
        raise CheckpointError(f"{path} is of {library or 'another library'}, not of {LIBRARY}")
    return config


def _check_options(config: Mapping[str, Any], path: Path) -> None:
    """Refuse a description that names neither a program nor a model, or has options that ``create_model`` lacks."""
    if "network" in config:
        return
    options = config.get("options")
    if not isinstance(options, dict) or not isinstance(options.get("name"), str):
        raise CheckpointError(f"{path} names no model: its 'options' must hold the 'name' that create_model takes")
    check_model_options(f"create_model in {path}", options)


@contextmanager
def _naming_a_newer_version(config: Mapping[str, Any], path: Path) -> Iterator[None]:
    """Add to an error that a newer version wrote the folder, where one did: it may know what this one does not."""
    try:
        yield
    except IsospikeError as error:
        written, own = str(config.get("isospike_version")), metadata.version(LIBRARY)
        if _numbers(written) > _numbers(own):
            newer = f"{path} was written by isospike {written}, and this is {own}: pip install -U isospike"
            error.args = (f"{error}; {newer}",)
        raise


def _numbers(version: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", version)[:3]]


def _folder(source: Path | str, revision: str | None) -> Path:
    """Find the folder to read: a local one, or the hub's copy on this machine."""
    if Path(source).is_dir():
        if revision is not None:
            raise CheckpointError(f"revision='{revision}' is for the hub, and {source} is a folder here: leave it out")
        return Path(source)
    if not isinstance(source, str) or not re.fullmatch(r"[\w.-]+/[\w.-]+", source):
        raise CheckpointError(f"'{source}' is no folder here and no id owner/name on the Hugging Face hub")
    hub = import_optional("huggingface_hub", extra="hub", purpose=f"'{source}', which is no folder here,")
    try:
        return Path(hub.snapshot_download(source, revision=revision, allow_patterns=[CONFIG, WEIGHTS]))
    except (OSError, ValueError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CheckpointError(f"'{source}' is no folder here, and the hub does not give it: {reason}") from error

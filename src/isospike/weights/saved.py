"""A network as files hold it, and the model built from that."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from isospike.errors import CheckpointError, ConfigError, IsospikeError, IsospikeWarning
from isospike.inputs import Inputs
from isospike.models import ProgramNet, SpikingNetwork, SpikingResNet, create_model
from isospike.models.zoo import check_model_options
from isospike.text import brief
from isospike.weights.files import Tensors, check_fit, load_weights

# What comes of options of another kind than create_model takes, or out of their range, from isospike or from PyTorch.
ODD_OPTIONS = (TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RuntimeError)


@dataclass(frozen=True)
class Saved:
    """A network as files hold it.

    Args:
        options: Arguments of ``create_model``; of a converted network those that ``ProgramNet`` can change.
        tensors: Its weights.
        config: The file that the options are from.
        weights: The file that the weights are from.
        inputs: What its images must be, where that is known.
        initialised_from: What it was trained from, where that was said.
        network: What ``ProgramNet.as_json`` said of it, where it is nothing but a program.
    """

    options: Mapping[str, Any]
    tensors: Tensors
    config: Path
    weights: Path
    inputs: Inputs | None
    initialised_from: Any = None
    network: Any = None


def build_saved(saved: Saved, num_classes: int | None = None, **changes: Any) -> SpikingNetwork:
    """Build the model of ``saved``, in eval mode; the other arguments are those of ``from_pretrained``.

    Raises:
        UnknownName: an option that ``create_model`` does not have.
        ConfigError: feature maps are asked for.
        CheckpointError: options that no model can be made of, or weights that do not fit.
    """
    if saved.network is not None:
        return _build_program(saved, num_classes, changes)
    check_model_options("create_model", changes)
    options = {**saved.options, **changes}
    if options.get("features_only") or options.get("out_indices") is not None:
        raise ConfigError(
            "weights load into a whole network, without features_only and out_indices: "
            "for its feature maps, write iso.FeatureMaps(iso.from_pretrained(...), out_indices)"
        )
    if options.get("weights") is not None:
        raise ConfigError(f"weights='{options['weights']}' are of create_model, and these are in {saved.weights}")
    with torch.device("meta"):  # options that ask for another size than the weights have get no memory
        check_fit(_create(options, saved.config), saved.tensors, str(saved.weights))
    model = _create(options, saved.config)
    load_weights(model, saved.tensors, str(saved.weights))
    model.inputs = saved.inputs
    model.initialised_from = saved.initialised_from
    before = model.options["num_classes"]
    if num_classes is not None and num_classes != before:
        model.reset_classifier(num_classes)
        if num_classes:
            new = f"the classifier for {num_classes} classes is new and untrained"
            warnings.warn(f"{new}: that in {saved.weights} is for {before}", IsospikeWarning, stacklevel=3)
    return model.eval()


def _build_program(saved: Saved, num_classes: int | None, changes: Mapping[str, Any]) -> ProgramNet:
    """Build the network of a program, in eval mode."""
    if num_classes is not None or changes.keys() - {"T"}:
        odd = "num_classes" if num_classes is not None else min(changes.keys() - {"T"})
        raise ConfigError(
            f"{saved.config.parent} holds a converted network, of which T alone can be changed: leave {odd} out"
        )
    changed = {**saved.options, **changes}
    with torch.device("meta"):  # as above
        check_fit(program_of(saved.network, saved.config, changed), saved.tensors, str(saved.weights))
    model = program_of(saved.network, saved.config, changed)
    load_weights(model, saved.tensors, str(saved.weights))
    model.inputs = saved.inputs
    return model.eval()


def program_of(network: Any, path: Path, changes: Mapping[str, Any]) -> ProgramNet:
    """Build the network that ``ProgramNet.as_json`` described in ``path``, changed in part, its weights yet to come.

    Raises:
        CheckpointError: it is no such description; names ``path``.
    """
    if not isinstance(network, Mapping):
        raise CheckpointError(f"the 'network' in {path} is no program")
    try:
        return ProgramNet.from_json({**network, **changes})
    except IsospikeError as error:
        raise CheckpointError(f"the network in {path} cannot be built: {error}") from error


def _create(options: Mapping[str, Any], path: Path) -> SpikingResNet:
    try:
        return create_model(**options)
    except ODD_OPTIONS as error:
        reason = brief(str(error), 300)
        raise CheckpointError(f"create_model makes no model of the options in {path}: {reason}") from error


def read_inputs(values: Any, path: Path) -> Inputs:
    """Return what a file says of the inputs.

    Raises:
        CheckpointError: a key is missing or unknown, or a value out of range; names ``path``.
    """
    try:
        return Inputs(**values)
    except (TypeError, ConfigError) as error:
        raise CheckpointError(f"the inputs in {path} cannot be used: {error}") from error

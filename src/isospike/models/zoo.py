"""Models by name: ``{topology}_resnet{depth}``, or ``{topology}_{net}``."""

import fnmatch
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, Unpack, overload

from isospike.errors import ConfigError, UnknownName
from isospike.models.backbone import FeatureMaps
from isospike.models.bodies import BODIES, NETS, STEMS, Body, Layout
from isospike.models.options import ModelOptions
from isospike.models.resnet import SpikingResNet
from isospike.neurons import NeuronSpec
from isospike.registry import Registry, check_known, unknown_name
from isospike.residual import JOINS, TOPOLOGIES, Topology

MAX_DEPTH = 2000  # built in seconds; a name with a slip in it, such as ms_resnet20000, would take minutes and gigabytes

# What other libraries call an option, and what does it here.
_OF_THE_NEURON = "it belongs to the neuron, neuron={{'{0}': ...}}"
HABITS = {
    "in_chans": "in_channels is the word here",
    "num_channels": "in_channels is the word here",
    "drop_rate": "dropout is the word here",
    "base_width": "width is the word here",
    "cnf": "join is the word here",
    "connect_f": "join is the word here",
    "spiking_neuron": "neuron is the word here",
    "zero_init_residual": "tail_init=0 starts every branch at 0",
    "timesteps": "T is the word here",
    "time_steps": "T is the word here",
    "num_steps": "T is the word here",
    "step_mode": "a model takes [B, C, H, W] or [T, B, C, H, W], and model.step() takes one step",
    "pretrained": "weights='digits' names those that come with the package, iso.from_pretrained(folder or hub id) "
    "reads a saved model, and iso.load_published(model, file) what its authors published",
    "checkpoint_path": "weights come from iso.from_pretrained(folder or hub id) or iso.load_published(model, file)",
    **{name: _OF_THE_NEURON.format(name) for name in ("tau", "decay", "v_threshold", "v_reset", "surrogate", "levels")},
}

WEIGHTS: Registry[Callable[..., SpikingResNet]] = Registry("weights")  # ``{model}.{weights}``: what makes that network


def list_models(pattern: str = "*") -> list[str]:
    """List the models whose names match a shell pattern, such as ``"ms_*"``.

    Any depth that fits a body can be created, listed or not: CIFAR bodies exist for every 6n+2. A network that has
    two names is listed once: by its alias only where the pattern matches that alone, as ``"srm_*"`` does.
    """
    names = [f"{topology}_{network}" for topology in sorted(TOPOLOGIES) for network in _networks(topology)]
    listed = fnmatch.filter(names, pattern)
    for alias, topology in TOPOLOGIES.aliases.items():
        only_here = [n for n in _networks(topology) if f"{topology}_{n}" not in listed]
        listed += fnmatch.filter([f"{alias}_{network}" for network in only_here], pattern)
    return listed


def _networks(topology: str) -> list[str]:
    row = TOPOLOGIES[topology]
    return [*(f"resnet{depth}" for depth in sorted(_depths(row))), *row.nets]


@overload
def create_model(
    name: str, *, features_only: Literal[False] = False, **options: Unpack[ModelOptions]
) -> SpikingResNet: ...


@overload
def create_model(
    name: str,
    *,
    features_only: Literal[True],
    out_indices: Sequence[int] | None = None,
    **options: Unpack[ModelOptions],
) -> FeatureMaps: ...


def create_model(
    name: str,
    *,
    features_only: bool = False,
    out_indices: Sequence[int] | None = None,
    **options: Unpack[ModelOptions],
) -> SpikingResNet | FeatureMaps:
    """Create a model by its name, with the presets of its source where no option says otherwise.

    Args:
        name: ``{topology}_resnet{depth}``, where the depth picks the body, or ``{topology}_{net}``.
        num_classes: Size of the logits; 0 for a backbone. None: the body's own.
        in_channels: Channels of the input. None: the body's own.
        T: Time steps for static images. None: the source's.
        body: Family "imagenet", "cifar", "resnet19", "resnet19_128" or "cifar_projected", where the depth fits more
            than one. None: the first of the topology that has the depth.
        width: Width of the first stage; the others double from stage to stage.
        stem: Name in ``STEMS``, such as "cifar", "imagenet", "strided", "three_conv", "dvs".
        join: "add", "and" or "iand".
        project: Words of the projection, such as "spike conv norm", or "shared conv" where the branch has words before
            its first convolution.
        identity: Words of the skip where the shape stays: "norm" instead of nothing.
        pool_projection: Whether an average pool takes the stride of a projection.
        reach: Which earlier stages feed a stage besides the one before it: "stage" (none), "fusion", "fusion_distant"
            or "global".
        combine: How the terms that reach a place become one there: "sum", "rsqrt", "mean" or "learned". With reach
            "stage" the terms are all outputs of a stage so far, else its links.
        per_step_norm: Whether every norm but the stem's has weights and statistics for each of the T steps; the model
            then takes no other T.
        neuron: Options that replace those of the topology's neuron; with ``kind``, another neuron altogether. Also its
            name; a ``Neuron``, of which every place gets a copy; or a class or function that makes one. The last two
            cannot be written by ``save_pretrained``, as no file can hold them.
        tail_init: Initial weight of the norm that ends each branch, or factor on the initial weights of the
            convolution that does; 0 makes a unit start as the identity where the topology can.
        alpha: tdBN's alpha in every norm, where the topology's norms have the factor ``alpha * v_threshold``.
        norm_eps: What every norm adds to the variance.
        norm_root_eps: What every norm adds to the root of the variance.
        weight_init: Initialisation of convolutions and classifier: "pytorch", "kaiming_fan_out", "kaiming_fan_in".
        dropout: Share of pooled features left out in training, in [0, 1).
        weights: Name of trained weights that come with the package, such as "digits" (``isospike models --weights``
            lists them); the model is then in eval mode, and the other options are changes as in ``from_pretrained``.
        features_only: Give the model as ``FeatureMaps``, a backbone without a classifier.
        out_indices: Its maps, with ``features_only``.

    Raises:
        UnknownName: no such topology, depth, body, stem, join, neuron or option; the text names the nearest.
        ConfigError: options that contradict each other or the topology.
    """
    check_model_options("create_model", options)
    given: dict[str, Any] = {key: value for key, value in options.items() if value is not None}
    if features_only:
        return FeatureMaps(create_model(name, **{**given, "num_classes": 0}), out_indices)
    if out_indices is not None:
        raise ConfigError("out_indices picks feature maps: it goes with features_only=True")
    weights = given.pop("weights", None)
    if weights is not None:
        return WEIGHTS[f"{name}.{weights}"](**given)
    row, layout = _parse(name, given.get("body"), given.get("width"))
    neuron = _neuron(_neuron(row.neuron, layout.neuron), given.get("neuron"))
    row, layout = _changed(row, given, neuron), _laid_out(layout, given)
    classes, channels = given.get("num_classes", layout.num_classes), given.get("in_channels", layout.in_channels)
    if classes < 0 or channels < 1:
        raise ConfigError(f"num_classes must be 0 or more and in_channels 1 or more, got {classes} and {channels}")
    model = SpikingResNet(row, layout, num_classes=classes, in_channels=channels, T=given.get("T", layout.T))
    model.options = {"name": name, **given, "num_classes": classes, "in_channels": channels, "T": model.T}
    return model


def check_model_options(what: str, options: Iterable[str]) -> None:
    """Refuse an option that ``create_model`` does not take.

    Args:
        what: Who was given it, for the reader.
        options: Names of options.

    Raises:
        UnknownName: with what does it here, or the nearest option that there is.
    """
    check_known(what, ("name", "features_only", "out_indices", *ModelOptions.__annotations__), options, HABITS)


def create_ann_twin(name: str, **options: Unpack[ModelOptions]) -> SpikingResNet:
    """Create the same network with rectifiers in place of its neurons, and one step of time.

    A norm with tdBN's factor keeps alpha; the threshold in it is 1.

    Raises:
        ConfigError: weights are asked for: those that come with the package are of spiking networks.
    """
    if options.get("weights") is not None:
        raise ConfigError(f"weights='{options['weights']}' are of a spiking network: leave them out")
    twin: dict[str, Any] = {"neuron": {"kind": "relu"}, "T": 1, **options}
    return create_model(name, **twin)


def _neuron(preset: NeuronSpec, given: NeuronSpec | None) -> NeuronSpec:
    """Return the preset with the options that are given, or another neuron where it is one or names a kind."""
    if given is None:
        return preset
    if isinstance(given, str):
        return {"kind": given}
    if not isinstance(given, Mapping) or "kind" in given:
        return given
    if not isinstance(preset, Mapping):
        raise ConfigError(f"neuron={dict(given)} changes options, and the neuron here is an object: give its kind too")
    return {**preset, **given}


def _laid_out(layout: Layout, given: Mapping[str, Any]) -> Layout:
    """Return the layout with the fields that are given."""
    changes = {key: given[key] for key in ("stem", "pool_projection", "dropout") if key in given}
    STEMS[changes.get("stem", layout.stem)]
    if not 0 <= changes.get("dropout", 0) < 1:
        raise ConfigError(f"dropout is a share in [0, 1), got {changes['dropout']}")
    return replace(layout, **changes)


def _changed(row: Topology, given: Mapping[str, Any], neuron: NeuronSpec) -> Topology:
    """Return the row with the fields that are given, all of its skip at once: it checks itself as a whole."""
    if "tail_init" in given:
        row = row.with_tail_init(given["tail_init"])
    if "alpha" in given:
        row = row.with_alpha(given["alpha"])
    skip = {key: given[key] for key in ("join", "project", "identity", "reach", "combine") if key in given}
    if row.join is None:
        for option, value in skip.items():
            raise ConfigError(f"topology '{row.name}' has no skip, so {option}='{value}' has no meaning there")
    if "join" in skip:
        skip["join"] = JOINS[skip["join"]]
    norms = ("per_step_norm", "weight_init", "norm_eps", "norm_root_eps")
    return replace(row, neuron=neuron, **skip, **{key: given[key] for key in norms if key in given})


def _parse(name: str, body: str | None, width: int | None) -> tuple[Topology, Layout]:
    match = re.fullmatch(r"(\w+)_resnet(\d+)", name)
    if match and match[1] in TOPOLOGIES:
        row = TOPOLOGIES[match[1]]
        return row, _layout(name, row, int(match[2]), body, width)
    for row in (TOPOLOGIES[topology] for topology in TOPOLOGIES):
        for net in row.nets:
            if name == f"{row.name}_{net}":
                if body is not None or width is not None:
                    raise ConfigError(f"'{name}' is a single network: it takes neither body nor width")
                return row, NETS[net]
    aliases = [other for alias in TOPOLOGIES.aliases for other in list_models(f"{alias}_*")]
    raise unknown_name("model", name, [*list_models(), *aliases])


def _bodies(row: Topology, family: str | None = None) -> Iterator[Body]:
    for body in row.bodies:
        if family in (None, BODIES[body].family):
            yield BODIES[body]


def _depths(row: Topology) -> set[int]:
    return {depth for body in _bodies(row) for depth in body.depths}


def _layout(name: str, row: Topology, depth: int, family: str | None, width: int | None) -> Layout:
    """Return the layout of the first body of the row that has this depth."""
    if width is not None and (width < 2 or width % 2):
        raise ConfigError(f"width must be an even number from 2 on, got {width}")
    if depth > MAX_DEPTH:
        raise ConfigError(f"'{name}' has {depth} layers: a model can have up to {MAX_DEPTH}")
    bodies = list(_bodies(row, family))
    if not bodies:
        raise unknown_name(f"body of '{row.name}'", str(family), dict.fromkeys(b.family for b in _bodies(row)))
    for body in bodies:
        layout = body.layout(depth, width)
        if layout is not None:
            return layout
    near = sorted(_depths(row), key=lambda known: abs(known - depth))[:3]
    raise UnknownName(
        f"no body of '{row.name}' has depth {depth} ('{name}'): there are "
        f"{', '.join(body.rule for body in bodies)}; nearest listed: "
        f"{', '.join(f'{row.name}_resnet{known}' for known in near)}"
    )

"""Models by name: ``{topology}_resnet{depth}``."""

import fnmatch
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from isospike.errors import ConfigError, UnknownName
from isospike.models.bodies import BODIES, STEMS, Body, Layout
from isospike.models.resnet import SpikingResNet
from isospike.registry import unknown_name
from isospike.residual import JOINS, TOPOLOGIES, Topology


def list_models(pattern: str = "*") -> list[str]:
    """Names of the listed models that match a shell pattern, such as ``"ms_*"``.

    Any depth that fits a body can be created, listed or not: CIFAR bodies exist for every 6n+2.
    """
    names = [
        f"{topology}_resnet{depth}"
        for topology in sorted(TOPOLOGIES)
        for depth in sorted(_depths(TOPOLOGIES[topology]))
    ]
    return [name for name in names if fnmatch.fnmatchcase(name, pattern)]


def create_model(
    name: str,
    *,
    num_classes: int | None = None,
    in_channels: int = 3,
    T: int | None = None,
    body: str | None = None,
    width: int | None = None,
    stem: str | None = None,
    join: str | None = None,
    project: str | None = None,
    neuron: Mapping[str, Any] | None = None,
    tail_init: float | None = None,
    dropout: float | None = None,
) -> SpikingResNet:
    """A model by its name, untrained, with the presets of its source where no option says otherwise.

    Args:
        name: ``{topology}_resnet{depth}``; the depth picks the body.
        num_classes: Size of the logits; 0 for a backbone. None: the body's own.
        in_channels: Channels of the input.
        T: Time steps for static images. None: the source's.
        body: Family "imagenet", "cifar" or "resnet19", where the depth fits more than one. None: in that order.
        width: Width of the first stage; the others double from stage to stage.
        stem: Name in ``STEMS``: "cifar", "imagenet", "strided", "three_conv".
        join: "add", "and" or "iand".
        project: Words of the projection, such as "spike conv norm".
        neuron: Options that replace those of the topology's neuron; with ``kind``, another neuron altogether.
        tail_init: Initial weight of the norm that ends each branch; 0 makes a unit start as the identity where the
            topology can.
        dropout: Share of pooled features left out in training, in [0, 1).

    Raises:
        UnknownName: no such topology, depth, body, stem, join, neuron or option; the text names the nearest.
        ConfigError: options that contradict each other or the topology.
    """
    options = {key: value for key, value in locals().items() if value is not None}
    row, depth = _parse(name)
    layout = _layout(name, row, depth, body, width)
    if stem is not None:
        STEMS[stem]
        layout = replace(layout, stem=stem)
    if dropout is not None:
        if not 0 <= dropout < 1:
            raise ConfigError(f"dropout is a share in [0, 1), got {dropout}")
        layout = replace(layout, dropout=dropout)
    row = _changed(row, join, project, neuron, tail_init)
    classes = layout.num_classes if num_classes is None else num_classes
    if classes < 0 or in_channels < 1:
        raise ConfigError(f"num_classes must be 0 or more and in_channels 1 or more, got {classes} and {in_channels}")
    model = SpikingResNet(row, layout, num_classes=classes, in_channels=in_channels, T=T)
    model.options = {**options, "num_classes": classes, "T": model.T}
    return model


def _changed(
    row: Topology, join: str | None, project: str | None, neuron: Mapping[str, Any] | None, tail_init: float | None
) -> Topology:
    """The row with the options of ``create_model`` put in; it checks itself anew."""
    if row.join is None:
        for option, value in (("join", join), ("project", project)):
            if value is not None:
                raise ConfigError(f"topology '{row.name}' has no skip, so {option}='{value}' has no meaning there")
    if neuron is not None:
        row = replace(row, neuron=dict(neuron) if "kind" in neuron else {**row.neuron, **neuron})
    if tail_init is not None:
        row = row.with_tail_init(tail_init)
    return replace(
        row, join=row.join if join is None else JOINS[join], project=row.project if project is None else project
    )


def _parse(name: str) -> tuple[Topology, int]:
    match = re.fullmatch(r"(\w+)_resnet(\d+)", name)
    if not match or match[1] not in TOPOLOGIES:
        raise unknown_name("model", name, list_models())
    return TOPOLOGIES[match[1]], int(match[2])


def _bodies(row: Topology, family: str | None = None) -> Iterator[Body]:
    for body in row.bodies:
        if family in (None, BODIES[body].family):
            yield BODIES[body]


def _depths(row: Topology) -> set[int]:
    return {depth for body in _bodies(row) for depth in body.depths}


def _layout(name: str, row: Topology, depth: int, family: str | None, width: int | None) -> Layout:
    """The layout of the first body of the row that has this depth."""
    if width is not None and (width < 2 or width % 2):
        raise ConfigError(f"width must be an even number from 2 on, got {width}")
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

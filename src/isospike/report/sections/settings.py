"""The model and its architecture, the configuration, the machine."""

from collections.abc import Mapping
from html import escape
from typing import Any

import torch

from isospike.drawing import draw_unit
from isospike.models import SpikingResNet, create_model
from isospike.report.sections.base import Section, flat, table
from isospike.residual.unit import EXPANSION
from isospike.run_folder import RunFolder, read_json

IN_WORDS = {
    "name": "model",
    "T": "time steps T",
    "input_size": "height and width of the input",
    "num_classes": "classes",
    "parameters": "learnable parameters",
    "neurons": "spiking neurons",
    "stem_macs": "MACs of the stem, once per image",
    "unit_macs": "MACs of the units, per time step",
    "projection_macs": "MACs of the projections, per time step",
    "head_macs": "MACs of the head, per time step",
    "macs": "MACs per image, all time steps",
    "neuron.kind": "neuron",
    "v_threshold": "threshold of the neuron",
    "words.cell": "unit, but for its last convolution",
    "words.last": "last convolution of a unit",
    "words.after": "behind the join",
    "words.project": "projection in the skip",
    "words.join": "join of branch and skip",
    "words.reach": "earlier stages that feed a stage",
    "words.combine": "how several terms are combined",
    "cpu": "processor",
    "gpu": "graphics processor",
}


def architecture(run: RunFolder) -> Section | None:
    """Show the stages as a table, the unit as a picture of its row; a converted network has no row."""
    config = run.read_config()
    if config.network is not None:
        return None
    with torch.device("meta"):
        network = create_model(**config.model.model_dump())
    text = f"<p>{escape(network.topology.source)}. Every picture shows one residual unit; a stage is a row of them.</p>"
    convs = 3 if network.layout.bottleneck else 2
    pictures = {"unit": draw_unit(network.topology, convs)}
    return Section("Architecture", text + _stages(network, run), pictures=pictures)


def _stages(network: SpikingResNet, run: RunFolder) -> str:
    """Return a row for the stem, for each stage and for the head."""
    layout, data = network.layout, run.read_analysis("data") or {}
    classes = len(data["classes"]) if "classes" in data else layout.num_classes
    rows = [("stem", layout.stem, str(layout.stem_width), "")]
    stages = zip(layout.blocks, layout.widths, layout.strides, strict=True)
    for number, (blocks, width, stride) in enumerate(stages, start=1):
        channels = width * (EXPANSION if layout.bottleneck else 1)
        rows.append((f"stage {number}", f"{blocks} units", str(channels), str(stride)))
    rows.append(("head", "mean over the image, linear", str(classes), ""))
    return table(("part", "made of", "channels out", "stride"), rows)


def model(run: RunFolder) -> Section | None:
    """Show the model's card."""
    card = run.read_analysis("model")
    if card is None:
        return None
    whole = {key: f"{value:,}" if isinstance(value, int) else value for key, value in card.items()}
    return Section("Model", table(("fact", "value"), [(_in_words(key), value) for key, value in flat(whole)]))


def _in_words(key: str) -> str:
    """Return ``unit_macs`` and ``words.cell`` as a person would say them; other keys keep their words."""
    if key in IN_WORDS:
        return IN_WORDS[key]
    return key.replace(".", ": ").replace("_", " ")


def configuration(run: RunFolder) -> Section | None:
    """Show the whole configuration."""
    return Section("Configuration", f'<pre tabindex="0">{escape(run.read_config().to_yaml())}</pre>')


def environment(run: RunFolder) -> Section | None:
    """Show versions and hardware."""
    path = run.path / "env.json"
    return _environment(read_json(path)) if path.is_file() else None


def _environment(found: Mapping[str, Any]) -> Section:
    return Section("Environment", table(("what", "value"), [(_in_words(key), value) for key, value in flat(found)]))

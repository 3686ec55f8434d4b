"""The model and its architecture, the configuration, the machine."""

from html import escape

import torch

from isospike.drawing import draw_unit
from isospike.models import SpikingResNet, create_model
from isospike.report.sections.base import Section, flat, table
from isospike.residual.unit import EXPANSION
from isospike.run_folder import RunFolder, read_json


def architecture(run: RunFolder) -> Section | None:
    """The stages as a table, the unit as a picture of its row."""
    options = run.read_config().model.model_dump()
    with torch.device("meta"):
        network = create_model(**options)
    text = f"<p>{escape(network.topology.source)}. Every picture shows one residual unit; a stage is a row of them.</p>"
    convs = 3 if network.layout.bottleneck else 2
    pictures = {"unit": draw_unit(network.topology, convs)}
    return Section("Architecture", text + _stages(network, run), pictures=pictures)


def _stages(network: SpikingResNet, run: RunFolder) -> str:
    """A row for the stem, for each stage and for the head."""
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
    """The model's card."""
    card = run.read_analysis("model")
    if card is None:
        return None
    whole = {key: f"{value:,}" if isinstance(value, int) else value for key, value in card.items()}
    return Section("Model", table(("", ""), flat(whole)))


def configuration(run: RunFolder) -> Section | None:
    """The whole configuration."""
    return Section("Configuration", f'<pre tabindex="0">{escape(run.read_config().to_yaml())}</pre>')


def environment(run: RunFolder) -> Section | None:
    """Versions and hardware."""
    path = run.path / "env.json"
    return Section("Environment", table(("", ""), flat(read_json(path)))) if path.is_file() else None

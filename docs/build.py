"""Writes what the pages take from the code and from logs of the bench, and the figures: ``python docs/build.py``.

Only what stands between ``<!-- generated: SECTION WORDS -->`` and ``<!-- end -->`` is rewritten; the rest of a page is
written by hand. A topology without a page gets a skeleton. Where a preset comes from, the code cannot know:
``architectures/sources.yaml`` says it.
"""

import json
import re
import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict
from functools import cache
from pathlib import Path

import torch
import yaml

import isospike as iso
from isospike.bench.saved import read_result
from isospike.bench.saved import render as bench_tables
from isospike.drawing import carried, draw_unit
from isospike.models.bodies import BODIES, NETS, STEMS, Layout
from isospike.recipes import describe_recipe, list_recipes, load_recipe
from isospike.registry import build
from isospike.residual import NormInit, Topology

PAGES = Path(__file__).parent / "architectures"
SOURCES = PAGES / "sources.yaml"
LOGS = Path(__file__).parent.parent / "benchmarks" / "logs"
INDEX = "README.md"
TO_WRITE = "(to be written)"
UNSAID = "(source to be said in sources.yaml)"
NEURON_FACTS = ("neuron", "threshold", "decay", "reset", "gradient through the reset", "surrogate")
MARKED = re.compile(r"(<!-- generated: (.+?) -->\n).*?(<!-- end -->)", re.DOTALL)

SKELETON = f"""# {{name}}

{TO_WRITE}: what it is, in three sentences; the equation of its unit.

<!-- generated: figures {{name}} -->
<!-- end -->

## Presets

<!-- generated: presets {{name}} -->
<!-- end -->

## Models

<!-- generated: models {{models}} -->
<!-- end -->

## Recipes

<!-- generated: recipes {{name}} -->
<!-- end -->

## Alternatives

{TO_WRITE}: a line of `create_model` for each.

## Published accuracies

{TO_WRITE}: with their source, and whether re-run.

## Known deviations from the source

{TO_WRITE}
"""


def table(heading: Iterable[str], rows: Iterable[Iterable[object]], right: int = 99) -> str:
    """A Markdown table; columns from ``right`` on hold numbers."""
    heading = list(heading)
    rule = ["---:" if index >= right else "---" for index, _ in enumerate(heading)]
    lines = [heading, rule, *([str(cell).replace("|", "\\|") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def code(words: str) -> str:
    """As code, or a dash where there is nothing."""
    return f"`{words}`" if words else "–"


def options(row: object) -> str:
    """A frozen row of numbers in words."""
    values = ", ".join(f"{key} {value:g}" for key, value in asdict(row).items())  # type: ignore[call-overload]
    return f"{type(row).__name__.lower()}, {values}"


def neuron_facts(row: Topology) -> dict[str, str]:
    """What the neuron of a row is, by preset."""
    neuron = build(iso.NEURONS, row.neuron)
    facts = {"neuron": type(neuron).__name__}
    if not hasattr(neuron, "rule"):
        return facts
    rule = neuron.rule
    decay, _ = neuron.coefficients()
    facts["threshold"] = ", ".join(f"{v:g}" for v in (rule.v_threshold, *getattr(rule, "higher", ())))
    facts["decay"] = "learned" if isinstance(decay, torch.Tensor) else f"{decay:g}"
    if hasattr(rule, "strict"):
        facts["fires"] = "above the threshold" if rule.strict else "at the threshold and above"
        facts["reset"] = "by subtraction" if rule.reset == "subtract" else f"to {rule.v_reset:g}"
        facts["surrogate"] = options(rule.surrogate)
    facts["gradient through the reset"] = "no" if rule.detach_reset else "yes"
    return facts


def norm_start(norm: NormInit, row: Topology) -> str:
    """How a norm starts, in words."""
    if norm.alpha is None:
        return f"weight {norm.weight:g}"
    return f"weight {norm.weight:g}, constant factor {norm.alpha:.3g} × {row.v_threshold:g}"


def norm_eps(row: Topology) -> str:
    """What norms add to what they divide by, in words."""
    added = {"variance": row.norm_eps, "root of the variance": row.norm_root_eps}
    return ", ".join(f"{eps:g} added to the {where}" for where, eps in added.items() if eps)


def bodies(row: Topology, fact: Callable[[Layout], str]) -> str:
    """A fact of every body of a row, those of one answer together."""
    found: dict[str, list[str]] = {}
    for name in row.bodies:
        depth = next(iter(BODIES[name].depths), 20)
        layout = BODIES[name].layout(depth, None)
        assert layout is not None
        found.setdefault(fact(layout), []).append(name)
    for net in row.nets:
        found.setdefault(fact(NETS[net]), []).append(net)
    if len(found) == 1:
        return next(iter(found))
    return "; ".join(f"{answer} ({', '.join(names)})" for answer, names in found.items())


def stem(layout: Layout) -> str:
    """A stem in words."""
    row = STEMS[layout.stem]
    convs = ", ".join(
        f"{kernel}x{kernel}" + (f" stride {stride}" if stride > 1 else "") for kernel, stride in row.convs
    )
    return f"`{layout.stem}`: {convs}, {layout.stem_width} channels" + (", max-pool" if row.max_pool else "")


def presets_of(row: Topology) -> dict[str, str]:
    """Every preset of a row in words."""
    facts = neuron_facts(row)
    facts["norms"] = norm_start(row.norm, row)
    facts["last norm of the branch"] = norm_start(row.norm_last, row) if row.tail_is_norm else "none: a conv is last"
    facts["eps of the norms"] = norm_eps(row)
    if row.join is not None:
        has_norm = "norm" in row.project.split()
        facts["projection"] = code(row.project)
        facts["norm of the projection"] = norm_start(row.norm_project, row) if has_norm else "none"
        facts["average pool in the projection"] = bodies(row, lambda layout: "yes" if layout.pool_projection else "no")
    facts["initialisation"] = code(row.weight_init)
    facts["T"] = bodies(row, lambda layout: str(layout.T or row.T))
    facts["stem"] = bodies(row, stem)
    facts["dropout"] = bodies(row, lambda layout: f"{layout.dropout:g}")
    closing = f"{row.closing}, " if row.closing else ""
    facts["head"] = f"{closing}average over the map, classifier at every step, mean over time"
    return facts


def presets(*names: str) -> str:
    """The table of presets of one topology, or of a family whose sources are told under its first name."""
    columns = [presets_of(iso.TOPOLOGIES[name]) for name in names]
    sources = yaml.safe_load(SOURCES.read_text(encoding="utf-8")).get(names[0], {})
    rows = []
    for preset in dict.fromkeys(preset for column in columns for preset in column):
        values = [column.get(preset, "–") for column in columns]
        rows.append([preset, *values, sources.get(preset, UNSAID)])
    return table(["preset", *(names if len(names) > 1 else ["value"]), "from"], rows)


def figures(*names: str) -> str:
    """The pictures of these topologies."""
    return "\n\n".join(f"![Residual unit of {name}](figures/{name}.svg)" for name in names)


def short(count: int) -> str:
    """With four figures and M or G."""
    if count == 0:
        return "0"
    return f"{count / 1e9:.4g} G" if count >= 1e9 else f"{count / 1e6:.4g} M"


@cache
def card(name: str) -> iso.ModelCard:
    """The card of a model, counted once."""
    return iso.model_card(name)


def parameters(name: str) -> str:
    """Of a model, a dash where its topology has no such depth."""
    return f"{card(name).parameters:,}" if name in iso.list_models() else "–"


def models(*names: str) -> str:
    """Parameters and multiply-accumulates."""
    rows = []
    for found in map(card, names):
        macs = (found.stem_macs, found.unit_macs, found.projection_macs, found.macs)
        size = f"{found.input_size}x{found.input_size}"
        counts = (f"{found.parameters:,}", *map(short, macs), f"{found.neurons:,}")
        rows.append([code(found.name), found.T, size, *counts])
    heading = ["model", "T", "input", "parameters", "MACs of the stem, once", "of the branches, per step"]
    return table([*heading, "of the projections, per step", "of an image, all T", "neurons"], rows, right=3)


@cache
def topology_of(model: str) -> str:
    """The topology of a model, also by an alias."""
    with torch.device("meta"):
        return iso.create_model(model).topology.name


def recipes(*names: str) -> str:
    """Recipes that train these topologies."""
    rows = []
    for recipe in list_recipes():
        config = load_recipe(recipe)
        if topology_of(config.model.name) in names:
            steps = config.model.T or f"{card(config.model.name).T}"
            result = re.search(r"^result +(.*(?:\n +.*)*)", describe_recipe(recipe), re.MULTILINE)
            said = " ".join(result[1].split()) if result else "–"
            rows.append([code(recipe), code(config.model.name), config.data.kind, steps, config.train.epochs, said])
    if not rows:
        return "No recipe trains it yet."
    return table(["recipe", "model", "data", "T", "epochs", "accuracy, as the recipe tells it"], rows)


def page_of(name: str) -> str:
    """The file of the page that describes a topology."""
    for page in sorted(PAGES.glob("*.md")):
        for _, section, _ in MARKED.findall(page.read_text(encoding="utf-8")):
            if section.split()[0] == "presets" and name in section.split()[1:]:
                return page.name
    return f"{name}.md"


def topologies() -> str:
    """All topologies, a row each: the unit, its neuron, the networks."""
    units, neurons, networks = [], [], []
    for name in iso.TOPOLOGIES:
        row, link = iso.TOPOLOGIES[name], f"[`{name}`]({page_of(name)})"
        facts = neuron_facts(row)
        words = [code(words) for words in (row.cell, row.last, row.after, row.project)]
        identity = "yes" if row.identity_at_init else "no"
        units.append([link, *words, row.join.name if row.join else "–", carried(row), identity])
        neurons.append([link, *(facts.get(key, "–") for key in NEURON_FACTS)])
        sizes = [parameters(f"{name}_resnet{depth}") for depth in (18, 20)]
        networks.append([link, row.source, row.T, ", ".join((*row.bodies, *row.nets)), *sizes])
    of_unit = ["topology", "cell", "last", "after", "projection", "join", "stream", "identity at initialisation"]
    of_networks = ["topology", "source", "T", "bodies and nets", "parameters, 18 layers", "parameters, 20 layers"]
    tables = table(of_unit, units), table(["topology", *NEURON_FACTS], neurons), table(of_networks, networks, right=4)
    return "\n\n".join(tables)


def bench(log: str) -> str:
    """Tables of a result that ``isospike bench`` saved in ``benchmarks/logs``."""
    return bench_tables(read_result(LOGS / log)).rstrip()


SECTIONS: dict[str, Callable[..., str]] = {
    "presets": presets,
    "figures": figures,
    "models": models,
    "recipes": recipes,
    "topologies": topologies,
    "bench": bench,
}


def notebook(page: str) -> str:
    """A page as a Jupyter notebook: its Python as cells to run, all between as text."""
    cells = []
    for index, part in enumerate(re.split(r"```python\n(.*?)```\n?", page, flags=re.DOTALL)):
        kind = {"cell_type": "code", "execution_count": None, "outputs": []} if index % 2 else {"cell_type": "markdown"}
        if part.strip():
            cells.append(
                {**kind, "id": f"cell-{index}", "metadata": {}, "source": part.strip().splitlines(keepends=True)}
            )
    kernel = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    return json.dumps({"cells": cells, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}, indent=1) + "\n"


def render(page: str) -> str:
    """A page with all its sections made anew."""

    def section(match: re.Match[str]) -> str:
        kind, *words = match[2].split()
        return f"{match[1]}\n{SECTIONS[kind](*words)}\n\n{match[3]}"

    return MARKED.sub(section, page)


def generate() -> dict[Path, str]:
    """Every file that is written, as it should be."""
    texts = {page: page.read_text(encoding="utf-8") for page in sorted(PAGES.glob("*.md"))}
    for name in iso.TOPOLOGIES:
        listed = " ".join(iso.list_models(f"{name}_resnet*")[:4])
        texts.setdefault(PAGES / page_of(name), SKELETON.format(name=name, models=listed))
    performance = PAGES.parent / "performance.md"
    if performance.exists():
        texts[performance] = performance.read_text(encoding="utf-8")
    files = {page: render(text) for page, text in texts.items()}
    tutorial = PAGES.parent / "tutorial.md"
    if tutorial.exists():
        files[tutorial.with_suffix(".ipynb")] = notebook(tutorial.read_text(encoding="utf-8"))
    for name in iso.TOPOLOGIES:
        files[PAGES / "figures" / f"{name}.svg"] = draw_unit(iso.TOPOLOGIES[name]) + "\n"
    return files


def main() -> None:
    """Write what changed, and say so."""
    for path, content in generate().items():
        if not path.exists() or path.read_text(encoding="utf-8") != content:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content, encoding="utf-8")
            sys.stdout.write(f"wrote {path.relative_to(PAGES.parent.parent)}\n")


if __name__ == "__main__":
    main()

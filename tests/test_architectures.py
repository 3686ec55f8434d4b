"""The architecture pages are what the code says, and the figures what the rows say."""

import importlib.util
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

import isospike as iso
from isospike.drawing import carried, draw_unit
from isospike.drawing.signals import COUNTS, CURRENTS, REAL, SPIKES, STREAM_CURRENTS
from isospike.drawing.xml import element, text
from isospike.graph import promised_domains
from isospike.neurons import NEURONS
from isospike.residual import JOINS, TOPOLOGIES

ROOT = Path(__file__).parent.parent
PAGES = sorted((ROOT / "docs" / "architectures").glob("*.md"))
TEXTS = {page.name: page.read_text() for page in PAGES}


def load_build():
    spec = importlib.util.spec_from_file_location("build", ROOT / "docs" / "build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


build = load_build()


@pytest.fixture(scope="module")
def generated():
    return build.generate()


def test_every_page_and_figure_is_current(generated):
    for path, content in generated.items():
        current = path.is_file() and path.read_text() == content
        assert current, f"{path.relative_to(ROOT)} is not what the code says now; run: python docs/build.py"
    figures = {path for path in generated if path.suffix == ".svg"}
    assert {*(ROOT / "docs/architectures/figures").iterdir()} == figures, "a figure of no topology: delete it"


@pytest.mark.parametrize("name", TOPOLOGIES)
def test_every_topology_has_a_page_a_figure_and_a_row(name):
    page = build.page_of(name)
    assert page in TEXTS, (
        f"topology '{name}' has no page; run: python docs/build.py, then write what {page} leaves open"
    )
    assert f"(figures/{name}.svg)" in TEXTS[page], f"{page} does not show figures/{name}.svg"
    assert f"[`{name}`]({page})" in TEXTS["README.md"], f"docs/architectures/README.md has no row of '{name}'"
    for section in ("presets", "figures", "recipes", "models"):
        found = [words for _, words, _ in build.MARKED.findall(TEXTS[page]) if words.split()[0] == section]
        assert name in " ".join(found), f"{page} has no <!-- generated: {section} ... --> that names '{name}'"


@pytest.mark.parametrize("page", TEXTS)
def test_nothing_is_left_to_write(page):
    assert build.TO_WRITE not in TEXTS[page], f"docs/architectures/{page}: write what stands as {build.TO_WRITE}"
    where = f"docs/architectures/sources.yaml: say where each preset on {page} comes from"
    assert build.UNSAID not in TEXTS[page], where


def test_sources_name_only_presets_that_there_are():
    for name, sources in build.yaml.safe_load(build.SOURCES.read_text()).items():
        assert set(sources) <= set(build.presets_of(TOPOLOGIES[name])), name


def test_a_new_topology_gets_a_page_and_a_figure(tmp_path, monkeypatch):
    monkeypatch.setattr(build, "PAGES", tmp_path)
    monkeypatch.setattr(build.iso, "TOPOLOGIES", {"sew": TOPOLOGIES["sew"]})
    files = build.generate()
    assert set(files) == {tmp_path / "sew.md", tmp_path / "figures" / "sew.svg"}
    page = files[tmp_path / "sew.md"]
    assert "| `sew_resnet8` | 4 | 32x32 | 78,042 |" in page
    assert build.TO_WRITE in page
    (tmp_path / "sew.md").write_text(page.replace(build.TO_WRITE, "By hand."))
    assert "By hand." in build.generate()[tmp_path / "sew.md"]


LINES = [
    (page, line)
    for page, content in TEXTS.items()
    for block in re.findall(r"```python\n(.*?)```", content, re.DOTALL)
    for line in block.splitlines()
]


@pytest.mark.parametrize(("page", "line"), LINES)
def test_every_line_of_python_on_the_pages_runs(page, line):
    assert re.match(r"iso\.create_(model|ann_twin)\(", line)
    with torch.device("meta"):
        model = eval(line.split("  #")[0], {"iso": iso})
    assert isinstance(model, iso.SpikingResNet)


@pytest.mark.parametrize("name", TOPOLOGIES)
def test_every_page_shows_options(name):
    assert any(page == build.page_of(name) and f'"{name}_' in line for page, line in LINES)


def test_the_page_of_neurons_names_them_all():
    named = set(re.findall(r"^\| `(\w+)`", TEXTS["neurons.md"], re.MULTILINE))
    assert named == set(NEURONS)


SVG = "{http://www.w3.org/2000/svg}"
SHARED = replace(TOPOLOGIES["da_nsc"], name="shared", project="shared conv")
ROWS = {
    **{name: TOPOLOGIES[name] for name in TOPOLOGIES},
    "shared": SHARED,
    "shared_norm": replace(SHARED, project="shared conv norm"),
    "and": replace(TOPOLOGIES["sew"], join=JOINS["and"]),
    "iand_pooled": replace(TOPOLOGIES["sew"], join=JOINS["iand"], project="pool conv norm spike"),
    "spiking_projection": replace(TOPOLOGIES["ms"], project="spike conv norm"),
    "pooled": replace(TOPOLOGIES["ms"], project="pool conv norm"),
    "relu": replace(TOPOLOGIES["sew"], neuron={"kind": "relu"}),
    "rsqrt": replace(TOPOLOGIES["da_cns"], combine="rsqrt"),
    "one_level": replace(TOPOLOGIES["ds"], neuron={**TOPOLOGIES["ds"].neuron, "levels": 1}),
}


def panels(row):
    return [g for g in ET.fromstring(draw_unit(row)) if g.get("class", "").startswith("panel")]


def words_in(panel, part):
    (group,) = [g for g in panel if g.get("class") == part] or [ET.Element("g")]
    return [g.find(f"{SVG}text").text for g in group if g.get("class", "").startswith("word")]


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
def test_a_figure_has_one_box_for_each_word(row):
    drawn = panels(row)
    assert [g.get("class") for g in drawn] == ["panel stays", "panel changes"][: 2 if row.join else 1]
    for panel in drawn:
        assert words_in(panel, "branch") == row.branch(2)
        assert words_in(panel, "after") == row.after.split()
        projected = row.project.split() if panel.get("class") == "panel changes" else []
        assert words_in(panel, "skip") == [word for word in projected if word != "shared"]
        joins = [g.find(f"{SVG}text").text for g in panel if g.get("class") == "join"]
        assert joins == ([] if row.join is None else ["+" if row.join.linear else row.join.name.upper()])
        for end in ("entrance", "exit"):
            (note,) = [g for g in panel if g.get("class") == f"note {end}"]
            assert " ".join(line.text for line in note) == carried(row)


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
def test_boxes_of_a_figure_do_not_overlap_and_lie_inside(row):
    svg = ET.fromstring(draw_unit(row))
    ground, *rects = svg.iter(f"{SVG}rect")
    boxes = [[int(rect.get(key)) for key in ("x", "y", "width", "height")] for rect in rects]
    total = [int(ground.get(key)) for key in ("width", "height")]
    assert total == [int(svg.get(key)) for key in ("width", "height")]
    for index, (x, y, width, height) in enumerate(boxes):
        assert x > 0
        assert y > 0
        assert x + width < total[0]
        assert y + height < total[1]
        for other in boxes[index + 1 :]:
            apart = x + width < other[0] or other[0] + other[2] < x or y + height < other[1] or other[1] + other[3] < y
            assert apart


def test_where_the_projection_shares_the_branch_s_first_words_it_leaves_behind_them():
    x = {}
    for name, row in (("own", TOPOLOGIES["da_nsc"]), ("shared", SHARED)):
        panel = panels(row)[1]
        (skip,) = [g for g in panel if g.get("class") == "skip"]
        x[name] = float(skip.find(f"{SVG}circle").get("cx"))
        boxes = [float(box.get("x")) for g in panel if g.get("class") == "branch" for box in g.iter(f"{SVG}rect")]
        assert sum(left < x[name] for left in boxes) == (2 if name == "shared" else 0)


@pytest.mark.parametrize("convs", [2, 3])
@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
def test_what_convolutions_read_in_a_figure_is_what_the_model_promises(row, convs):
    """The second unit stands for all: the first of a network may read less than the rule allows."""
    layout = replace(build.BODIES["cifar"].layout(14, None), bottleneck=convs == 3)
    with torch.device("meta"):
        model = iso.SpikingResNet(row, layout, num_classes=10)
    promises = promised_domains(model)
    drawn = [g for g in ET.fromstring(draw_unit(row, convs)) if g.get("class", "").startswith("panel")]
    for panel, unit in zip(drawn, (model.stages[0][1], model.stages[1][0]), strict=False):
        for part, chain in (("branch", unit.branch), ("skip", unit.skip)):
            notes = [
                n for g in panel if g.get("class") == part for n in g.iter(f"{SVG}g") if n.get("class") == "note reads"
            ]
            said = [" ".join(line.text for line in note) for note in notes]
            read = [promises[layer].largest for layer in chain.modules() if isinstance(layer, nn.Conv2d)]
            for words, largest in zip(said, read, strict=True):
                kinds = {None: (REAL, CURRENTS, STREAM_CURRENTS), 1: (SPIKES,)}.get(largest, (COUNTS,))
                assert words in [f"reads {kind}" for kind in kinds]


def test_a_figure_shows_what_convolutions_read():
    (note,) = [g for g in panels(TOPOLOGIES["ms"])[1].iter(f"{SVG}g") if g.get("class") == "note reads"][:1]
    assert [line.text for line in note] == ["reads", "spikes"]
    (skip,) = [g for g in panels(TOPOLOGIES["ms"])[1] if g.get("class") == "skip"]
    (note,) = [g for g in skip.iter(f"{SVG}g") if g.get("class") == "note reads"]
    assert [line.text for line in note] == ["reads", "membrane", "currents"]


def test_a_figure_tells_itself_in_words_and_stands_alone():
    picture = draw_unit(TOPOLOGIES["sew"])
    svg = ET.fromstring(picture)
    assert svg.get("role") == "img"
    assert svg[0].tag == f"{SVG}title"
    assert svg[0].text == "Residual unit of sew"
    assert svg.find(f"{SVG}desc").text == (
        "The branch is conv, norm, spike, conv, norm, spike. Where the shape stays, the skip is the identity. "
        "Where the shape changes, it is conv, norm, spike. Branch and skip are joined by add. After the join stands "
        "nothing. From unit to unit flow counts."
    )
    style = svg.find(f"{SVG}style").text
    assert "prefers-color-scheme: dark" in style
    rules = re.findall(r"^(?!@|})(.+?) {", style, re.MULTILINE)
    assert all(selector.strip().startswith(".isospike-unit") for rule in rules for selector in rule.split(","))
    assert not re.search(r"href|url\(|<script", picture)


def test_names_are_escaped():
    name = "<b>&\"'"
    svg = ET.fromstring(draw_unit(replace(TOPOLOGIES["sew"], name=name)))
    assert svg[0].text == f"Residual unit of {name}"
    assert ET.fromstring(element("a", {"b": name}, text(name))).attrib == {"b": name}
    assert ET.fromstring(element("a", {"b": name}, text(name))).text == name

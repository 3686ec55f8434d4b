import json
import re
from html.parser import HTMLParser

import pytest
import torch
import vl_convert

import isospike as iso
from isospike.config import parse_yaml, read_config
from isospike.errors import ConfigError, MissingExtra
from isospike.report import page, write_report
from isospike.report.charts import MAX_POINTS, heat_map, line_chart, thin
from isospike.report.sections import SECTIONS
from isospike.run_folder import RunFolder, write_json

HOSTILE = "</script><script>alert(1)</script><b>&\"'"
CONFIG = """
recipe: trial
model: {name: ms_resnet8}
data: {kind: digits}
optim: {kind: sgd, lr: 0.1}
schedule: {kind: constant}
train: {epochs: 2, batch_size: 32}
"""


def isometry_result(phis=(1.0, 1.25, 0.875), error=0.25):
    """As ``isospike analyze`` writes it."""

    def interval(value):
        return {"value": value, "low": value - error, "high": value + error}

    units = [
        {"name": HOSTILE, "index": n, "phi": interval(phi), "varphi": interval(0.5), "expected": None}
        for n, phi in enumerate(phis, start=1)
    ]
    units[-1]["expected"] = {"phi": 0.8, "varphi": 0.4}
    said = {"rule": "trains", "text": f"trains {HOSTILE}", "reason": HOSTILE}
    return {
        "model": HOSTILE, "checkpoint": HOSTILE, "images": HOSTILE, "T": 4, "batch": 8, "probes": 4, "seed": 0,
        "verdict": {**said, "notes": [{**said, "text": "a note"}]}, "log10_product": interval(0.1), "units": units,
        "gradients": {"loss": 2.0, "inputs": {"a": 0.1, HOSTILE: 0.2}, "weights": {"w": 0.3, "v": 0.0}},
    }  # fmt: skip


def make_run(folder, *, steps=40, classes=("a", "b", HOSTILE), torn=False, tested=True, analyzed=False):
    run = RunFolder(folder)
    config = read_config({**parse_yaml(CONFIG, "x"), "recipe": HOSTILE}, "x")
    run.create(config, {"cpu": HOSTILE, "packages": {"torch": "2"}, "gpu": None})
    lines = []
    for step in range(1, steps + 1):
        record = {"kind": "step", "split": "train", "epoch": 1, "step": step, "loss": 2 / step, "accuracy": 0.5}
        record |= {
            "lr": 0.1,
            "grad_norm": 1 / step,
            "images_per_s": 100.0,
            "peak_memory_mb": 50.0,
            "seconds": step * 90.0,
        }
        lines.append(record)
    for split in ("train", "test"):
        if steps:
            lines.append({"kind": "epoch", "split": split, "epoch": 1, "step": steps, "loss": 0.5, "accuracy": 0.75})
    text = "".join(json.dumps(line) + "\n" for line in lines)
    run.metrics.write_text(text + ('{"kind": "st' if torn else ""))
    write_json(run.analysis("data"), {"name": HOSTILE, "classes": list(classes), "note": "JPEG copy"})
    if tested:
        K = len(classes)
        matrix = [[8 if row == column else int(column == 0) for column in range(K)] for row in range(K)]
        result = {"images": 26, "checkpoint": "last", "accuracy": 0.9, "classes": list(classes), "confusion": matrix}
        write_json(run.analysis("test"), result)
    if analyzed:
        write_json(run.analysis("isometry"), isometry_result())
    return run


class Page(HTMLParser):
    """Headings, charts, and all that a browser would fetch or run."""

    def __init__(self, text):
        super().__init__()
        self.headings, self.specs, self.fetched, self.scripts, self.text = [], [], [], 0, ""
        self._inside = None
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self._inside = tag
        if tag == "script":
            self.scripts += "type" not in attributes
            self._inside = attributes.get("type", "script")
        self.fetched += [v for k, v in attributes.items() if k in ("src", "href") and not v.startswith(("#", "data:"))]

    def handle_endtag(self, tag):
        self._inside = None

    def handle_data(self, data):
        if self._inside == "h2":
            self.headings.append(data)
        elif self._inside == "application/json":
            self.specs.append(json.loads(data))
        elif self._inside != "script":
            self.text += data


def read(run):
    return Page(run.report.read_text())


def test_every_section_renders_and_nothing_is_fetched(tmp_path):
    run = make_run(tmp_path / "run")
    write_report(run)
    found = read(run)
    assert found.headings == ["Summary", "Curves", "Confusion", "Configuration", "Environment"]
    assert found.fetched == []
    assert len(found.specs) == 6
    for figure in ("75.00%", "JPEG copy", "1 h 00 min", "50 MB", "26 test images"):
        assert figure in found.text
    assert run.report.stat().st_size < 1_500_000


def test_the_charts_are_valid_and_draw(tmp_path):
    run = make_run(tmp_path / "run", analyzed=True)
    write_report(run)
    for spec in read(run).specs:
        svg = vl_convert.vegalite_to_svg(spec)
        assert svg.startswith("<svg")
        assert "NaN" not in svg


def test_what_comes_from_outside_is_escaped(tmp_path):
    run = make_run(tmp_path / "run", analyzed=True)
    write_report(run)
    found = read(run)
    assert found.scripts == 2  # the library and ours
    assert "alert(1)" in found.text
    assert "<script>alert" not in run.report.read_text()
    assert any(HOSTILE in json.dumps(spec, ensure_ascii=False).replace('\\"', '"') for spec in found.specs)


def test_isometry_has_a_verdict_and_charts_along_depth(tmp_path):
    run = make_run(tmp_path / "run", analyzed=True)
    write_report(run)
    found = read(run)
    assert found.headings == ["Summary", "Curves", "Confusion", "Isometry", "Configuration", "Environment"]
    for part in (f"trains {HOSTILE}.", "a note.", "T=4, 8 ", "4 probes per unit"):
        assert part in found.text
    phi, varphi, product, inputs, weights = [spec["data"]["values"] for spec in found.specs[6:]]
    assert phi[1] == {"x": 2, "value": 1.25, "low": 1.0, "high": 1.5, "series": "measured"}
    assert found.specs[6]["layer"][0]["mark"]["type"] == "area"
    assert phi[3] == {"x": 3, "value": 0.8, "series": "theory"}
    assert varphi[3] == {"x": 3, "value": 0.4, "series": "theory"}
    assert [(p["x"], round(p["value"], 6)) for p in product] == [(1, 0.038918), (2, 0.038918), (3, -0.057992)]
    assert [p["value"] for p in inputs] == [0.1, 0.2]
    assert [(p["x"], p["value"]) for p in weights] == [(1, 0.3)]  # 0 has no place on a logarithmic axis


def test_isometry_without_intervals_or_behind_a_dead_unit(tmp_path):
    result = isometry_result(phis=(1.0, 0.0, 10.0))
    for unit in result["units"]:
        unit["phi"] |= {"low": None, "high": None}
    result["gradients"]["inputs"] = {"a": 0.0}
    run = make_run(tmp_path / "run")
    write_json(run.analysis("isometry"), {**result, "log10_product": None})
    write_report(run)
    specs = read(run).specs[6:]
    assert [len(spec["data"]["values"]) for spec in specs] == [4, 4, 1, 1]
    assert all(vl_convert.vegalite_to_svg(spec).startswith("<svg") for spec in specs)


def test_the_isometry_of_482_layers_stays_small(tmp_path):
    result = isometry_result(phis=[1.0] * 240)
    result["gradients"] |= {"inputs": {str(n): 1.0 for n in range(240)}, "weights": {str(n): 1.0 for n in range(484)}}
    run = make_run(tmp_path / "run")
    write_json(run.analysis("isometry"), result)
    write_report(run)
    assert run.report.stat().st_size < 1_500_000


def test_firing_and_energy_where_they_were_measured(tmp_path):
    """Real results under hostile names; every chart draws, and nothing but a number is put in unescaped."""
    run = make_run(tmp_path / "run")
    for name, steps in (("ms_resnet8", 2), ("ds_resnet8", 2), ("ms_resnet8", 9)):
        images = torch.randn(2, 3, 32, 32)
        network = iso.create_model(name, T=steps)
        with iso.watch(network) as seen:
            network(images)
        facts = {"data": HOSTILE, "note": HOSTILE, "checkpoint": HOSTILE}
        energy = iso.measure_energy(network, images).as_dict()
        energy["table"] |= {"name": HOSTILE, "source": HOSTILE}
        energy["groups"][HOSTILE] = energy["groups"]["stem"]
        energy["layers"][0]["layer"] = HOSTILE
        flow = seen.flow().as_dict()
        flow["neurons"][0]["name"] = flow["units"][0]["name"] = HOSTILE
        write_json(run.analysis("energy"), {**facts, **energy})
        write_json(run.analysis("flow"), {**facts, **flow})
        write_report(run)
        found = read(run)
        assert found.headings[3:5] == ["Firing", "Energy"]
        assert found.scripts == 2
        assert "<script>alert" not in run.report.read_text()
        titles = [spec["description"] for spec in found.specs]
        assert ("Levels along depth" in titles) == (name == "ds_resnet8")
        rates = next(spec for spec in found.specs if spec["description"] == "Firing rate along depth")
        assert len({point["series"] for point in rates["data"]["values"]}) == (2 if steps == 2 else 1)
        assert rates["data"]["values"][0]["name"] == HOSTILE
        assert rates["layer"][1]["encoding"]["tooltip"][0]["field"] == "name"
        for spec in found.specs:
            svg = vl_convert.vegalite_to_svg(spec)
            assert "NaN" not in svg
        ratio = f"{energy['mj']['ann'] / energy['mj']['stem_once']:.2f}"
        for part in (ratio, "stem at every step", "dormant neuron", f"{flow['spikes_per_neuron']:.3f} spikes"):
            assert part in found.text


def test_the_library_cannot_end_its_own_script():
    assert "</script" not in page._library().lower()


@pytest.mark.parametrize(("steps", "tested"), [(0, False), (3, False), (0, True)])
def test_a_half_written_run_shows_what_there_is(tmp_path, steps, tested):
    run = make_run(tmp_path / "run", steps=steps, tested=tested, torn=True)
    write_report(run)
    headings = read(run).headings
    assert headings[0] == "Summary"
    assert ("Curves" in headings) == (steps > 0)
    assert ("Confusion" in headings) == tested
    run = RunFolder(tmp_path / "bare")
    run.create(read_config(parse_yaml(CONFIG, "x"), "x"), {})
    write_report(run)
    assert "none" in read(run).text


def test_damaged_files_are_named(tmp_path):
    run = make_run(tmp_path / "run")
    lines = run.metrics.read_text().splitlines(keepends=True)
    run.metrics.write_text("".join([*lines[:3], "{broken\n", *lines[3:]]))
    with pytest.raises(ConfigError, match=r"metrics.jsonl, line 4 is damaged"):
        write_report(run)
    run.metrics.write_text("".join(lines))
    run.analysis("test").write_text("{")
    with pytest.raises(ConfigError, match=r"test.json cannot be read as JSON"):
        write_report(run)


def test_a_missing_plotting_library_is_said_with_its_extra(tmp_path, monkeypatch):
    run = make_run(tmp_path / "run")
    page._library.cache_clear()
    monkeypatch.setitem(__import__("sys").modules, "vl_convert", None)
    with pytest.raises(MissingExtra, match=re.escape("pip install 'isospike[report]'")):
        write_report(run)


def test_long_runs_and_many_classes_stay_small(tmp_path):
    run = make_run(tmp_path / "run", steps=30_000, classes=[f"class {n}" for n in range(100)])
    write_report(run)
    assert run.report.stat().st_size < 2_000_000
    many = make_run(tmp_path / "many", classes=[f"class {n}" for n in range(1000)])
    write_report(many)
    assert len(read(many).specs) == 5  # no heat map of a million cells


def test_thinning_keeps_means_and_the_end():
    points = [{"x": n, "value": float(n), "series": "s"} for n in range(6001)]
    thinned = thin(points)
    assert len(thinned) <= MAX_POINTS
    assert thinned[-1]["x"] == 6000
    assert thinned[0]["value"] == sum(range(11)) / 11
    assert thin(points[:MAX_POINTS]) == points[:MAX_POINTS]


def test_charts_hold_what_they_are_given():
    points = [{"x": 1, "value": 0.5, "series": "a"}, {"x": 2, "value": 0.7, "series": "b"}]
    spec = line_chart(points, x="epoch", y="accuracy", title="Accuracy", percent=True)
    assert spec["data"]["values"] == points
    assert "a" in vl_convert.vegalite_to_svg(spec)
    cells = heat_map([[3, 1], [0, 0]], ["x", "y"], title="c")["data"]["values"]
    assert cells == [
        {"true": "x", "predicted": "x", "images": 3, "share": 0.75},
        {"true": "x", "predicted": "y", "images": 1, "share": 0.25},
    ]


def test_sections_are_found_by_being_in_the_list():
    assert [make.__name__ for make in SECTIONS][:2] == ["summary", "curves"]

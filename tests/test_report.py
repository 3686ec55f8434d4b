"""The report of one run: what it shows, that nothing foreign gets out of its quotes, and what it says of damage."""

import json
import re

import pytest
import vl_convert

import isospike as iso
from isospike.config import parse_yaml, read_config
from isospike.errors import MissingExtra
from isospike.report import page, run_sections, write_report
from isospike.report.charts import MAX_POINTS, heat_map, line_chart, percent_format, thin
from isospike.report.sections import SECTIONS
from isospike.run_folder import RunFolder, write_json
from isospike.text import energy_unit
from report_runs import CONFIG, HOSTILE, PIXEL, isometry_result, make_run, measure, read


def test_every_section_renders_and_nothing_is_fetched(tmp_path):
    run = make_run(tmp_path / "run")
    write_report(run)
    found = read(run)
    assert found.headings[:4] == ["Summary", "Curves", "Confusion", "Accuracy against T"]
    assert found.headings[4:] == ["Architecture", "Configuration", "Environment"]
    assert found.fetched == []
    assert len(found.specs) == 7
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
    assert found.headings[2:5] == ["Confusion", "Accuracy against T", "Isometry"]
    for part in (f"trains {HOSTILE}.", "a note.", "T=4, 8 ", "4 probes per unit"):
        assert part in found.text
    phi, varphi, product, inputs, weights = [spec["data"]["values"] for spec in found.specs[7:]]
    assert phi[1] == {"x": 2, "value": 1.25, "low": 1.0, "high": 1.5, "series": "measured"}
    assert found.specs[7]["layer"][0]["mark"]["type"] == "area"
    assert phi[3] == {"x": 3, "value": 0.8, "series": "theory"}
    assert varphi[3] == {"x": 3, "value": 0.4, "series": "theory"}
    assert [(p["x"], round(p["value"], 6)) for p in product] == [
        *[(1, 0.038918), (2, 0.038918), (3, -0.057992)],
        *[(1, -0.057992), (3, -0.057992)],  # without the unit that changes the shape
    ]
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
    specs = read(run).specs[7:]
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
        energy, flow = measure(run, name, steps)
        write_report(run)
        found = read(run)
        assert found.headings[4:8] == ["Events", "Firing during training", "Firing", "Energy"]
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


def test_what_is_not_there_yet_is_said_with_the_command_that_makes_it(tmp_path):
    run = make_run(tmp_path / "run", tested=False)
    write_report(run)
    text = read(run).text
    assert f"1 of 2 epochs are done. Go on: isospike train --resume {run.path}" in text
    for command in ("the test: isospike eval", "isometry: isospike analyze", "firing and energy: isospike energy"):
        assert f"{command} {run.path}" in text


def test_confused_images_are_pictures_inside_the_page(tmp_path):
    run = make_run(tmp_path / "run")
    write_report(run)
    found = read(run)
    assert f"data:image/png;base64,{PIXEL}" in run.report.read_text()
    assert f"{HOSTILE}, taken for a (75.0%)" in found.text
    assert found.fetched == []


def test_the_architecture_is_drawn_from_the_options_of_the_run(tmp_path):
    run = make_run(tmp_path / "run")
    run.config.write_text(run.config.read_text().replace("ms_resnet8", "ms_resnet50"))  # a bottleneck, three convs
    write_report(run)
    page_text = run.report.read_text()
    assert page_text.count('<svg xmlns="http://www.w3.org/2000/svg" class="isospike-unit"') == 1
    panel = page_text[page_text.index('<g class="panel stays"') : page_text.index('<g class="panel changes"')]
    assert panel.count('<g class="word conv"') == 3
    assert "stage 4" in read(run).text
    assert "2048" in read(run).text


def test_firing_during_training_is_shown_along_depth(tmp_path):
    run = make_run(tmp_path / "run")
    measure(run)
    write_report(run)
    specs = {spec["description"]: spec for spec in read(run).specs}
    lines = specs["Firing during training"]
    cells = specs["Firing during training along depth"]
    streams = specs["Variance of the stream behind units"]
    assert {p["series"] for p in lines["data"]["values"]} >= {"firing rate", "silent", "saturated", "dormant per step"}
    assert {(c["x"], c["x2"]) for c in cells["data"]["values"]} == {(1, 51), (51, 101), (101, 151)}
    assert {(c["y"], c["y2"]) for c in cells["data"]["values"]} >= {(0.5, 1.5), (1.5, 2.5)}
    assert all({"rate", "silent", "saturated", "open", "dormant"} <= c.keys() for c in cells["data"]["values"])
    assert len({p["series"] for p in streams["data"]["values"]}) == 3


def test_maps_and_rasters_of_deep_and_long_networks_stay_small(tmp_path):
    run = make_run(tmp_path / "run", analyzed=True)
    measure(run, "ms_resnet56", 20)
    flow, raster = run.read_analysis("flow"), run.read_analysis("raster")
    flow["neurons"] *= 9  # as many as 500 layers
    flow["units"] *= 9
    write_json(run.analysis("flow"), flow)
    assert (len(raster["populations"]), raster["steps"], raster["T"]) == (40, 8, 20)
    write_report(run)
    assert run.report.stat().st_size < 2_500_000
    (cells,) = [s["data"]["values"] for s in read(run).specs if s["description"] == "Firing over depth and time"]
    assert len(cells) <= 120 * 16
    corner = [sum(n["rate"][:2]) / 2 for n in flow["neurons"][:5]]  # 495 populations by 5, 20 steps by 2
    assert cells[0]["rate"] == pytest.approx(sum(corner) / 5, rel=1e-3)


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


def test_what_is_damaged_is_named_and_the_rest_is_shown(tmp_path):
    run = make_run(tmp_path / "run", analyzed=True)
    lines = run.metrics.read_text().splitlines(keepends=True)
    run.metrics.write_text("".join([*lines[:3], "{broken\n", *lines[3:]]))
    run.analysis("isometry").write_text("{")
    tested = run.read_analysis("test")
    write_json(run.analysis("test"), {key: value for key, value in tested.items() if key != "classes"})
    problems = write_report(run)
    found = read(run)
    assert len(problems) == 3
    said = ("metrics.jsonl, line 4 is damaged", "lacks 'classes'", "cannot be read as JSON")
    for problem, words in zip(problems, said, strict=True):
        assert words in problem
        assert words in found.text
    assert found.headings[:4] == ["Summary", "Curves", "Confusion", "Accuracy against T"]
    assert len(found.specs) == 6  # curves and accuracy against T
    assert [r["x"] for r in found.specs[0]["data"]["values"]][:4] == [1, 2, 3, 4]
    assert write_report(make_run(tmp_path / "sound", analyzed=True)) == []


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
    assert len(read(many).specs) == 6  # no heat map of a million cells


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


def test_the_ticks_of_shares_that_differ_by_little_are_told_apart():
    assert percent_format([0.1, 0.9], from_zero=True) == ".0%"
    assert percent_format([0.98, 0.996], from_zero=False) == ".1%"
    assert percent_format([0.99, 0.994], from_zero=False) == ".2%"
    assert percent_format([0.99, 0.9904], from_zero=False) == ".3%"
    assert percent_format([0.5, 0.5], from_zero=False) == ".3%"
    points = [{"x": t, "value": 0.99 + t / 1000, "series": "accuracy"} for t in range(1, 7)]
    spec = line_chart(points, x="T", y="accuracy", title="accuracy", percent=True, from_zero=False)
    ticks = re.findall(r">([\d.]+%)<", vl_convert.vegalite_to_svg({**spec, "width": 400}))
    assert len(ticks) > 3
    assert len(set(ticks)) == len(ticks)


def test_energies_share_a_unit_by_the_largest_of_them():
    assert energy_unit([0.002, 3.0]) == ("mJ", 1.0)
    assert energy_unit([0.002, 0.03]) == ("uJ", 1e3)
    assert energy_unit([2e-4]) == ("nJ", 1e6)


def test_energy_is_said_in_one_unit(tmp_path):
    run = make_run(tmp_path / "run")
    energy, _ = measure(run)
    unit, per_mj = energy_unit(energy["mj"].values())
    section = next(s for s in run_sections(run)[0] if s.title == "Energy")
    assert set(re.findall("[mun]J", section.html)) == {unit}
    assert f"<td>{per_mj * energy['mj']['ann']:,.4g}</td>" in section.html
    assert section.charts[0].spec["encoding"]["y"]["title"] == unit


def test_every_caption_says_more_than_its_title(tmp_path):
    run = make_run(tmp_path / "run", analyzed=True)
    measure(run, "ds_resnet8")
    for section in run_sections(run)[0]:
        for chart in section.charts:
            title = chart.spec["description"].lower()
            words = set(re.findall("[a-z]+", chart.caption.lower())) - set(re.findall("[a-z]+", title))
            assert len(words) > 3, chart.caption


def test_the_facts_of_a_model_are_said_in_words(tmp_path):
    run = make_run(tmp_path / "run")
    write_json(run.analysis("model"), iso.model_card("ms_resnet8").as_dict())
    section = next(s for s in run_sections(run)[0] if s.title == "Model")
    keys = re.findall("<tr><td>(.*?)</td>", section.html)
    assert "MACs of the stem, once per image" in keys
    assert not [key for key in keys if "." in key or "_" in key]

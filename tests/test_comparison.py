"""Several runs on one page, and every figure as a file: whatever each run has is shown, and the rest is said."""

import json
import re

import pytest
import vl_convert
from PIL import Image

from isospike.errors import ConfigError
from isospike.report import comparison_sections, run_sections, write_comparison, write_figures
from isospike.run_folder import RunFolder, write_json
from report_runs import HOSTILE, Page, make_run, measure


@pytest.fixture
def runs(tmp_path):
    """One with everything, one as training leaves it, one that has only begun."""
    whole = make_run(tmp_path / "whole", analyzed=True)
    measure(whole)
    trained = make_run(tmp_path / "trained", steps=20)
    trained.config.write_text(trained.config.read_text().replace("lr: 0.1", "lr: 0.25"))
    begun = make_run(tmp_path / "begun", steps=0, tested=False, torn=True)
    return [whole, trained, begun]


def compare(runs, path):
    problems = write_comparison(runs, path)
    return Page(path.read_text()), problems


def test_everything_is_side_by_side(tmp_path, runs):
    found, problems = compare(runs, tmp_path / "page.html")
    assert problems == []
    assert found.headings == [
        "Overview", "Settings that differ", "Curves", "Accuracy against T", "Isometry", "Firing", "Energy",
    ]  # fmt: skip
    series = {spec["description"]: {p["series"] for p in spec["data"]["values"]} for spec in found.specs}
    assert series["Training loss"] == series["Test accuracy"] == series["Accuracy against T"] == {"whole", "trained"}
    assert series["phi of every unit"] == series["Firing rate along depth"] == {"whole"}
    assert series["Firing rate in training"] == {"whole"}
    assert all(vl_convert.vegalite_to_svg(spec).startswith("<svg") for spec in found.specs)
    for cell in ("75.00%", "1 of 2", "0 of 2", "1 h 00 min"):
        assert cell in found.text


def test_only_the_settings_that_differ_are_listed(tmp_path, runs):
    sections, _ = comparison_sections(runs)
    cells = re.findall("<t[hd]>(.*?)</t[hd]>", sections[1].html)
    assert cells == ["setting", "whole", "trained", "begun", "optim.lr", "0.1", "0.25", "0.1"]
    alike, _ = comparison_sections([runs[0], runs[2]])
    assert "same configuration" in alike[1].html


def test_what_a_run_lacks_is_said_under_its_name(tmp_path, runs):
    found, _ = compare(runs, tmp_path / "page.html")
    begun = runs[2].path
    assert f"begun: Training is not over: 0 of 2 epochs are done. Go on: isospike train --resume {begun}" in found.text
    assert f"trained: Not measured yet: isometry: isospike analyze {runs[1].path}" in found.text


def test_a_damaged_file_hides_nothing_else(tmp_path, runs):
    runs[0].analysis("isometry").write_text("{")
    lines = runs[1].metrics.read_text().splitlines(keepends=True)
    runs[1].metrics.write_text("".join([*lines[:3], "{broken\n", *lines[3:]]))
    found, problems = compare(runs, tmp_path / "page.html")
    assert [
        bool(re.search(words, p)) for words, p in zip(("isometry.json", "line 4 is damaged"), problems, strict=True)
    ]
    assert "Isometry" not in found.headings
    assert {"Firing", "Energy", "Curves"} <= set(found.headings)
    for problem in problems:
        assert problem in found.text


def test_nothing_foreign_is_run(tmp_path, runs):
    path = tmp_path / HOSTILE.replace("/", "")
    path.mkdir()
    strange = make_run(path / "run", analyzed=True)
    measure(strange)
    found, _ = compare([runs[0], strange], tmp_path / "page.html")
    assert found.scripts == 2
    assert "<script>alert" not in (tmp_path / "page.html").read_text()


def test_runs_are_called_by_what_tells_them_apart(tmp_path):
    folders = [tmp_path / first / second for first in "ab" for second in ("x", "run")]
    sections, _ = comparison_sections([make_run(folder) for folder in folders])
    for folder in folders:
        assert f"<th>{folder.parent.name}/{folder.name}</th>" in sections[0].html
    with pytest.raises(ConfigError, match="was named twice"):
        comparison_sections([RunFolder(folders[0]), RunFolder(folders[0])])
    with pytest.raises(ConfigError, match="nothing is not a run folder"):
        comparison_sections([RunFolder(folders[0]), RunFolder(tmp_path / "nothing")])


def test_a_page_that_cannot_be_written_is_said(tmp_path, runs):
    with pytest.raises(ConfigError, match=r"cannot write .*page.html: No such file"):
        write_comparison(runs, tmp_path / "nowhere" / "page.html")


def test_every_figure_becomes_a_file(tmp_path, runs):
    run = runs[0]
    write_json(run.analysis("test"), {**run.read_analysis("test"), "classes": ["a", "b", "c"]})
    sections, _ = run_sections(run)
    drawn = [chart.spec for section in sections for chart in section.charts]
    written = write_figures(sections, tmp_path / "figures")
    assert len(written) == len(drawn) + 3  # the unit, and of a recording its layers and its cloud
    assert len(set(written)) == len(written)
    for path in written:
        assert path.read_text().startswith("<svg")
        with Image.open(path.with_suffix(".png")) as image:
            assert image.width > 600
    loss = next(path for path in written if path.name.endswith("-curves-loss.svg")).read_text()
    assert "#0072B2" in loss  # the colours of the page
    assert loss.count("<path") < 60  # without a point for every value, there only to be hovered over
    assert json.dumps(drawn).count("hover") > 10


def test_a_folder_that_cannot_hold_figures_is_said(tmp_path, runs):
    (tmp_path / "file").write_text("")
    sections, _ = run_sections(runs[1])
    with pytest.raises(ConfigError, match="cannot write figures to"):
        write_figures(sections, tmp_path / "file")

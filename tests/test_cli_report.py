"""The report from the command line, and what commands say of runs that are not as they should be."""

import re
import shutil

import pytest

import isospike as iso
from helpers import TINY
from test_cli import call


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run that was stopped early, and tested."""
    folder = tmp_path_factory.mktemp("cli") / "run"
    call("train", *TINY, "--out", folder, "--max-steps", 4)
    call("eval", folder)
    return folder


def test_report_of_several_runs_and_their_figures(run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(run, tmp_path / "other")
    call("report", run, "other", "--figures", "figures")
    said = capsys.readouterr().out
    assert "report: comparison.html" in said
    assert re.search(r"figures: \d+ in figures", said)
    assert ">Settings that differ</h2>" in (tmp_path / "comparison.html").read_text()
    assert {path.suffix for path in (tmp_path / "figures").iterdir()} == {".svg", ".png"}
    call("report", run, "--out", "other.html")
    assert ">Architecture</h2>" in (tmp_path / "other.html").read_text()


def test_report_says_what_it_could_not_show(run, tmp_path, capsys):
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    (copy / "analysis" / "test.json").write_text('{"images": ')
    with (copy / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "st')  # torn, which is no damage: the run was killed
    call("report", copy)
    said = capsys.readouterr()
    assert said.err.count("note: ") == said.err.count("test.json cannot be read as JSON") == 2
    assert "report.html" in said.out
    assert ">Curves</h2>" in (copy / "report.html").read_text()


def test_analyze_judges_a_run_as_trained_and_a_name_as_not(run, monkeypatch, capsys):
    asked = []

    def judge(units, gradients, *, trained):
        asked.append(trained)
        return iso.analysis.judge(units, gradients, trained=trained)

    monkeypatch.setattr("isospike.cli.analyze.judge", judge)
    for target in (run, "ms_resnet8"):
        call("analyze", target, "--batch", 2, "--probes", 1)
    assert asked == [True, False]


@pytest.mark.parametrize("command", ["eval", "energy", "analyze"])
def test_a_checkpoint_of_another_model_is_named(run, tmp_path, capsys, command):
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    before = {path.name: path.read_bytes() for path in (copy / "analysis").iterdir()}
    (copy / "config.yaml").write_text((copy / "config.yaml").read_text().replace("ms_resnet8", "ms_resnet14"))
    call(command, copy, expect=2)
    said = capsys.readouterr().err
    assert "last.safetensors" in said
    assert said.count("error: ") == 1
    assert {path.name: path.read_bytes() for path in (copy / "analysis").iterdir()} == before


def test_a_network_without_spikes_shows_all_but_its_firing(tmp_path, capsys):
    ann = tmp_path / "ann"
    call("train", *TINY, "--out", ann, "--max-steps", 2, "--set", "model.neuron={kind: relu}", "--set", "model.T=1")
    assert "no neuron of this network spikes" in capsys.readouterr().out
    call("energy", ann, expect=2)
    assert "has no spiking neuron, so there are no spikes to count" in capsys.readouterr().err
    call("analyze", ann, "--batch", 2, "--probes", 1)
    call("eval", ann)
    call("report", ann)
    page = (ann / "report.html").read_text()
    assert ">Isometry</h2>" in page
    assert ">Confusion</h2>" in page
    assert ">Firing" not in page

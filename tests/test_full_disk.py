"""A disk that takes nothing more: what was computed is said, why it is not kept is said, and no half file is left."""

import json
import os
import resource
import shutil
import subprocess
import sys

import pytest

from helpers import TINY
from isospike.errors import RunFailed
from isospike.run_folder import RunFolder
from isospike.weights import load_tensors
from test_cli import call
from test_trainer import new_trainer, resumed_trainer, tiny

COMMANDS = {  # and the file that each writes
    ("eval",): "test",
    ("energy", "--images", "20"): "energy",
    ("analyze", "--batch", "2", "--probes", "1"): "isometry",
}


SMALL = [*TINY, "--set", "data={kind: synthetic, classes: 3, channels: 1, size: 8, train: 64, test: 30}"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run."""
    folder = tmp_path_factory.mktemp("full") / "run"
    call("train", *SMALL, "--set", "train.epochs=1", "--out", folder)
    return folder


def nothing_half(folder):
    return not list(folder.rglob("*.part"))


@pytest.mark.parametrize(("command", "name"), COMMANDS.items(), ids=lambda x: x[0] if isinstance(x, tuple) else "")
def test_a_result_is_said_though_it_cannot_be_written(run, tmp_path, command, name, capsys):
    copy = shutil.copytree(run, tmp_path / "run")
    RunFolder(copy).analysis(name).unlink(missing_ok=True)
    RunFolder(copy).analysis(name).mkdir()  # which no file can replace
    for form in ([], ["--json"]):
        call(command[0], copy, *command[1:], *form, expect=1)
        said = capsys.readouterr()
        assert said.err == f"error: cannot write {copy}/analysis/{name}.json: Is a directory\n"
        assert json.loads(said.out) if form else "ms_resnet8" in said.out
    assert nothing_half(copy)


def test_a_result_is_said_though_the_disk_is_full(run):
    """In a process that can write no byte into a file."""
    before = RunFolder(run).read_analysis("test")

    def no_space():
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))

    words = [sys.executable, "-m", "isospike", "eval", str(run), "--json"]
    done = subprocess.run(words, capture_output=True, text=True, preexec_fn=no_space)  # noqa: PLW1509
    assert done.returncode == 1
    sentence = f"error: cannot write {run}/analysis/test.json: File too large; the one before is intact\n"
    assert done.stderr.endswith(sentence)  # behind what is noted where there is no compiled library
    assert json.loads(done.stdout) == RunFolder(run).read_analysis("test") == before
    assert nothing_half(run)


def test_the_end_of_training_says_what_came_out_before_it_is_written(tmp_path, capsys):
    folder = tmp_path / "run"
    call("train", *SMALL, "--set", "train.batch_size=16", "--max-steps", 7, "--out", folder)
    RunFolder(folder).analysis("test").mkdir()  # which no file can replace
    call("train", "--resume", folder, expect=1)
    said = capsys.readouterr()
    assert "epoch 2/2: train accuracy" in said.out
    assert said.err == f"error: cannot write {folder}/analysis/test.json: Is a directory\n"
    assert nothing_half(folder)
    RunFolder(folder).analysis("test").rmdir()
    call("train", "--resume", folder)
    assert "test accuracy: last epoch" in capsys.readouterr().out
    assert RunFolder(folder).read_analysis("test")["images"] == 30


def test_a_report_that_cannot_be_written_fails_no_run(tmp_path, capsys):
    folder = tmp_path / "run"
    (folder / "report.html").mkdir(parents=True)
    call("train", *SMALL, "--max-steps", 1, "--out", folder)
    assert f"no report: cannot write {folder}/report.html: Is a directory" in capsys.readouterr().out
    assert nothing_half(folder)


@pytest.mark.parametrize("broken", ["_metrics", "_flow"])
def test_why_a_run_ended_is_not_hidden_by_what_closing_says(tmp_path, broken):
    """The file of the records has been closed under the run: every write fails, and closing it again does too."""
    trainer = new_trainer(tiny(train={"watch_every": 1}), tmp_path / "run")
    trainer.fit(max_steps=2)
    take = trainer.step.forward_backward

    def closed(*batch):
        os.close(getattr(trainer.log, broken)._file.fileno())
        return take(*batch)

    trainer.step.forward_backward = closed
    name = {"_metrics": "metrics", "_flow": "flow"}[broken]
    with pytest.raises(RunFailed, match=rf"cannot write .*{name}.jsonl: Bad file descriptor"):
        trainer.fit()
    assert load_tensors(trainer.run.checkpoint("last"))[1]["state"]["step"] == 2
    assert resumed_trainer(tmp_path / "run").fit() == "done"

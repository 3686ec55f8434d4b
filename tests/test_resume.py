"""Taking up a run: what may have happened to it in between, and what must not."""

import fcntl
import json
import os
import pty
import shutil
import signal
import subprocess
import sys
import termios
import time

import numpy as np
import pytest
import torch
from PIL import Image

from helpers import TINY, locked_elsewhere
from isospike.config import TrainSpec
from isospike.errors import CheckpointError
from isospike.processes import World
from isospike.run_folder import RunFolder
from isospike.train.checkpoint import check_same_run
from isospike.train.display import SilentDisplay
from isospike.weights import load_tensors
from test_cli import call, write_photographs
from test_trainer import new_trainer, numbers, resumed_trainer, tiny


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """A run that was stopped in its first epoch."""
    folder = tmp_path_factory.mktemp("resume") / "run"
    call("train", *TINY, "--max-steps", 3, "--out", folder)
    return folder


@pytest.fixture
def copy(begun, tmp_path):
    """The same, to be spoilt."""
    return shutil.copytree(begun, tmp_path / "run")


def test_another_number_of_processes_would_take_other_steps(tmp_path, monkeypatch):
    new_trainer(tiny(), tmp_path / "run").fit(max_steps=2)
    two = World(1, 2, torch.device("cpu"))
    monkeypatch.setattr(World, "wrap", lambda self, model, **_: model)
    monkeypatch.setattr("test_trainer.World", lambda *_: two)
    sentence = (
        r"the steps of .*last.safetensors take 1 x 8 images \(processes x train.batch_size\), and would now take "
        r"2 x 8: go on in 1 \(torchrun --nproc_per_node=1\), or start a new run"
    )
    with pytest.raises(CheckpointError, match=sentence):
        resumed_trainer(tmp_path / "run")


@pytest.mark.parametrize("key", [key for key in TrainSpec.model_fields if key != "epochs"])
def test_whatever_changes_a_step_is_refused(key, tmp_path):
    """Every key of ``train`` but one: batches, parts of them, precision, shared norms and all that may come."""
    config = tiny()
    saved = config.model_dump(mode="json")
    saved["train"][key] = "another"
    with pytest.raises(CheckpointError, match=f"was written with train.{key} = 'another' and config.yaml now says"):
        check_same_run(saved, config, tmp_path)


def test_a_key_of_several_lines_is_said_on_one(tmp_path):
    config = tiny()
    saved = config.model_dump(mode="json")
    saved["train"]["a\nb"] = "</script>" * 100
    with pytest.raises(CheckpointError, match="with train.a b = '</script>.* and config.yaml") as raised:
        check_same_run(saved, config, tmp_path)
    assert len(str(raised.value)) < 1000
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("missing", ["env.json", "analysis/data.json", "analysis/model.json", "analysis"])
def test_what_a_killed_run_had_not_written_yet_is_written(begun, copy, tmp_path, missing, capsys):
    path = copy / missing
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    call("train", "--resume", copy, "--max-steps", 4)
    for name in ("data", "model"):
        assert RunFolder(copy).read_analysis(name) == RunFolder(begun).read_analysis(name)
    assert json.loads((copy / "env.json").read_text())["packages"]["torch"]
    Image.fromarray(np.zeros((8, 8), dtype=np.uint8)).save(tmp_path / "x.png")
    call("predict", copy, tmp_path / "x.png")
    assert "probability" in capsys.readouterr().out


def test_what_is_there_is_left_as_it_is(copy):
    before = (copy / "env.json").read_bytes()
    call("train", "--resume", copy, "--max-steps", 4)
    assert (copy / "env.json").read_bytes() == before


def test_other_data_are_not_those_of_the_run(tmp_path, capsys):
    write_photographs(tmp_path / "images")
    data = f"{{kind: folder, dir: {tmp_path / 'images'}, workers: 0, size: 16, test_resize: 16}}"
    run, small = tmp_path / "run", ["--set", "train.batch_size=4", "--set", f"data={data}"]
    call("train", *TINY, *small, "--max-steps", 1, "--out", run)
    for split in ("train", "val"):
        (tmp_path / "images" / split / "ant").rename(tmp_path / "images" / split / "bee")
    call("train", "--resume", run, expect=2)
    said = capsys.readouterr().err
    assert f"{run}/analysis/data.json says classes = ['ant', 'cat'] and the data now have ['bee', 'cat']" in said
    assert "or start a new run" in said
    for split in ("train", "val"):
        (tmp_path / "images" / split / "bee").rename(tmp_path / "images" / split / "ant")
    (tmp_path / "images" / "train" / "ant" / "0.png").unlink()
    call("train", "--resume", run, expect=2)
    assert "says train_images = 8 and the data now have 7" in capsys.readouterr().err


def test_a_run_that_is_worked_on_is_not_worked_on_twice(copy, capsys):
    before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    with locked_elsewhere(copy):
        call("train", "--resume", copy, expect=2)
        assert f"another process is working on the run in {copy}: wait for it, or stop it" in capsys.readouterr().err
        (copy / "config.yaml").rename(copy / "away")  # as if the other had not come so far
        call("train", *TINY, "--out", copy, expect=2)
        assert "another process is working on the run" in capsys.readouterr().err
        (copy / "away").rename(copy / "config.yaml")
    assert {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()} == before


def test_a_terminal_that_is_closed_saves_as_ctrl_c_does(tmp_path):
    """The shell is gone, and writing to its terminal fails."""
    ours, theirs = pty.openpty()
    long = ["--set", "train.epochs=1000", "--set", "train.checkpoint_every=100000", "--out", str(tmp_path / "run")]
    process = subprocess.Popen(
        [sys.executable, "-m", "isospike", "train", *TINY, *long],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(theirs, termios.TIOCSCTTY, 0),  # noqa: PLW1509
    )
    os.close(theirs)
    seen, deadline = b"", time.monotonic() + 120
    while b"loss" not in seen and time.monotonic() < deadline:
        seen += os.read(ours, 4096)
    os.close(ours)
    assert process.wait(timeout=120) == 1
    steps = [r["step"] for r in RunFolder(tmp_path / "run").read_metrics() if r["kind"] == "step"]
    assert load_tensors(tmp_path / "run" / "checkpoints" / "last.safetensors")[1]["state"]["step"] == steps[-1] > 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_every_signal_saves_where_it_comes(tmp_path, number):
    trainer = new_trainer(tiny(), tmp_path / "run")
    take = trainer.step.forward_backward

    def signalled(*batch):
        if trainer.state.step == 2:
            os.kill(os.getpid(), number)
        return take(*batch)

    trainer.step.forward_backward = signalled
    assert trainer.fit() == "interrupted"
    assert trainer.stop.signal == number.name
    assert resumed_trainer(tmp_path / "run").state.step == 3


def test_a_hangup_that_is_ignored_stays_ignored(tmp_path):
    """As under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        trainer = new_trainer(tiny(), tmp_path / "run")
        trainer.model.register_forward_pre_hook(lambda *_: os.kill(os.getpid(), signal.SIGHUP))
        assert trainer.fit() == "done"
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


# More epochs -------------------------------------------------------------------------------------------------------


def more(folder, epochs):
    """What was said where a run goes on with these epochs, and what it comes to."""
    RunFolder(folder).keep_epochs(epochs)
    trainer = resumed_trainer(folder, said := Saying())
    return said.texts, trainer


class Saying(SilentDisplay):
    """Keeps what is said."""

    def __init__(self):
        self.texts = []

    def say(self, text):
        self.texts.append(text)


@pytest.mark.parametrize("schedule", [{"kind": "constant"}, {"kind": "steps", "milestones": [2, 4]}], ids=str)
def test_a_finished_run_goes_on_as_if_it_had_been_longer(tmp_path, schedule):
    new_trainer(tiny(schedule=schedule, train={"epochs": 5}), tmp_path / "long").fit()
    new_trainer(tiny(schedule=schedule), tmp_path / "short").fit()
    texts, trainer = more(tmp_path / "short", 5)
    assert trainer.fit() == "done"
    assert numbers(tmp_path / "short") == numbers(tmp_path / "long")
    lr = 0.05 if schedule["kind"] == "constant" else 0.005
    assert f"is {lr:.3g} at the next step (of 3: {lr:.3g})" in texts[0]
    long, short = (load_tensors(tmp_path / name / "model.safetensors")[0] for name in ("long", "short"))
    assert all(torch.equal(long[name], short[name]) for name in long)


def test_a_cosine_follows_that_of_the_longer_run_from_there_on(tmp_path):
    schedule = {"kind": "cosine", "min_lr": 0.001, "warmup_epochs": 0.0}
    new_trainer(tiny(schedule=schedule), tmp_path / "run").fit()
    texts, trainer = more(tmp_path / "run", 6)
    middle = 0.001 + (0.05 - 0.001) / 2
    assert texts == [
        "train.epochs was 3 and is 6: the learning rate follows the schedule of 6 epochs from here on, and is "
        f"{middle:.3g} at the next step (of 3: 0.001)"
    ]
    trainer.fit(max_steps=20)
    assert numbers(tmp_path / "run")[-1]["lr"] < middle == pytest.approx(numbers(tmp_path / "run")[-2]["lr"])
    resumed_trainer(tmp_path / "run", said := Saying())
    assert said.texts == []  # once is enough


def test_no_fewer_epochs_than_are_done(tmp_path):
    new_trainer(tiny(), tmp_path / "run").fit()
    with pytest.raises(CheckpointError, match="the run has done 3 epochs, so train.epochs must be more, got 2"):
        more(tmp_path / "run", 2)


def test_more_epochs_on_the_command_line(copy, capsys):
    call("train", "--resume", copy, "--set", "train.epochs=3", "--max-steps", 4)
    assert "train.epochs was 2 and is 3: the learning rate follows" in " ".join(capsys.readouterr().out.split())
    assert RunFolder(copy).read_config().train.epochs == 3
    before = (copy / "config.yaml").read_bytes()
    call("train", "--resume", copy, "--set", "optim.lr=1", expect=2)
    assert "its --set takes train.epochs only, as train.epochs=200, got 'optim.lr=1'" in capsys.readouterr().err
    call("train", "--resume", copy, "--max-steps", 5)
    assert (copy / "config.yaml").read_bytes() == before

"""Several processes, started as torchrun starts them, against one."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from helpers import locked_elsewhere
from isospike.run_folder import RunFolder
from test_cli import call

COMMANDS = Path(__file__).with_name("dist_commands.py")

TINY = """
recipe: tiny
model: {name: ms_resnet8, T: 2, width: 4, tail_init: 0.5}
data: {kind: synthetic, classes: 3, channels: 1, size: 8, train: 50, test: 27}
optim: {kind: sgd, lr: 0.05}
schedule: {kind: constant}
train: {epochs: 4, batch_size: 8, test_batch_size: 10, sync_norm: true, tensorboard: false, ema: 0.5}
"""


WEIGHTED = ["train.sampling=[1, 4, 2]", "train.freeze=[stem]", "train.weights=one"]
WEIGHTED += ["objective={kind: cross_entropy, class_weights: balanced}"]


def sets(*changes):
    return [word for change in changes for word in ("--set", change)]


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def start(folder, *commands):
    """Two processes, as torchrun starts them, that run these commands of training one after the other."""
    words = [["train", "--device", "cpu", *map(str, command)] for command in commands]
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "PORTS": " ".join(str(free_port()) for _ in words)}
    processes = []
    for rank in range(2):
        env = {**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1"}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": folder}
        processes.append(subprocess.Popen([sys.executable, str(COMMANDS), json.dumps(words)], env=env, **pipes))
    return processes


def finish(processes, code=0):
    """What each said of each command, once all have ended with this exit code."""
    said = [process.communicate(timeout=180) for process in processes]
    for process, (_, errors) in zip(processes, said, strict=True):
        assert process.returncode == code, errors
    return [out.split("\f") for out, _ in said]


def train(folder, *commands):
    return finish(start(folder, *commands))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Runs of one process, and of two at the same joint batch; what each of the two said of each command."""
    folder = tmp_path_factory.mktemp("runs")
    recipe = folder / "tiny.yaml"
    recipe.write_text(TINY)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for arguments in (["--out", "one"], [*sets(*WEIGHTED), "--out", "one_weighted"]):
            call("train", "--device", "cpu", "--recipe", recipe, *arguments)
    half = ["--recipe", recipe, *sets("train.batch_size=4")]
    apart = [*half, *sets("train.sync_norm=false")]
    said = train(
        folder,
        [*half, "--out", "two"],
        [*half, *sets(*WEIGHTED), "--out", "two_weighted"],
        [*apart, "--out", "whole"],
        [*apart, "--max-steps", 5],
        ["--resume", "runs/tiny"],
    )
    return folder, said


def numbers(run, kind):
    records = [r for r in RunFolder(run).read_metrics() if r["kind"] == kind]
    return [(r["split"], r["step"], pytest.approx(r["loss"], rel=1e-3), r["accuracy"]) for r in records]


@pytest.mark.dist
def test_two_processes_train_as_one_at_the_same_joint_batch(runs):
    folder, ((first, *_), (second, *_)) = runs
    assert "test accuracy" in first
    assert second == ""  # only the first process talks
    one, two = folder / "one", folder / "two"
    assert numbers(one, "step") == numbers(two, "step")
    assert numbers(one, "epoch") == numbers(two, "epoch")
    tests = [RunFolder(run).read_analysis("test") for run in (one, two)]
    assert tests[0]["images"] == tests[1]["images"] == 27
    assert tests[0]["accuracy_after"] == tests[1]["accuracy_after"]
    wrong = [RunFolder(run).read_analysis("confused")["images"] for run in (one, two)]
    assert {image["index"] for image in wrong[0]} == {image["index"] for image in wrong[1]}
    assert len(wrong[0]) == min(24, 27 - round(27 * tests[0]["accuracy"]))
    assert [json.loads(line)["step"] for line in (two / "flow.jsonl").read_text().splitlines()] == [1]


@pytest.mark.dist
def test_weighted_and_frozen_training_is_that_of_one_process(runs):
    """What is drawn, how classes weigh, and which parts stay do not depend on the number of processes."""
    one, two = (runs[0] / name for name in ("one_weighted", "two_weighted"))
    assert numbers(one, "step") == numbers(two, "step")
    assert numbers(one, "epoch") == numbers(two, "epoch")


@pytest.mark.dist
def test_a_run_without_a_name_gets_one_folder_for_all_and_can_be_resumed(runs, monkeypatch, capsys):
    monkeypatch.chdir(runs[0])
    assert [path.name for path in Path("runs").iterdir()] == ["tiny"]
    for kind in ("step", "epoch"):
        assert numbers("whole", kind) == numbers("runs/tiny", kind)
    # Norms that are not synchronised drift apart, but all processes must test the network that is saved.
    call("eval", "whole", "--json")
    tested = [r for r in RunFolder("whole").read_metrics() if r["kind"] == "epoch" and r["split"] == "test"]
    assert json.loads(capsys.readouterr().out)["loss"] == pytest.approx(tested[-1]["loss"], rel=1e-5)


@pytest.mark.dist
def test_a_run_does_not_go_on_in_another_number_of_processes(runs, monkeypatch, capsys):
    monkeypatch.chdir(runs[0])
    call("train", "--device", "cpu", "--resume", "two", expect=2)
    said = capsys.readouterr().err
    assert "last.safetensors take 2 x 4 images (processes x train.batch_size), and would now take 1 x 4" in said
    with locked_elsewhere(runs[0] / "two"):
        both = [process.communicate(timeout=180)[1] for process in start(runs[0], ["--resume", "two"])]
    for said in both:
        assert "error: another process is working on the run in two: wait for it, or stop it\n" in said


@pytest.mark.dist
def test_a_signal_to_one_process_stops_all_at_the_same_step(tmp_path):
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(TINY)
    common = ["--recipe", recipe, *sets("train.batch_size=4", "data.train=16000")]
    processes = start(tmp_path, [*common, "--out", "run"])
    metrics, deadline = tmp_path / "run" / "metrics.jsonl", time.monotonic() + 60
    while not (metrics.exists() and metrics.read_text().count("\n") > 9) and time.monotonic() < deadline:
        time.sleep(0.02)
    processes[1].send_signal(signal.SIGTERM)
    (first, *_), _ = finish(processes, code=1)
    assert "isospike train --resume" in first
    done = max(step for _, step, _, _ in numbers(tmp_path / "run", "step"))
    assert 9 < done < 1900  # before the test at the end of the epoch, which would stop as well
    to = ["--max-steps", done + 7]
    train(tmp_path, ["--resume", "run", *to], [*common, "--out", "whole", *to])
    assert numbers(tmp_path / "run", "step") == numbers(tmp_path / "whole", "step")

"""Several processes, started as torchrun starts them, against one."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from helpers import locked_elsewhere
from isospike.run_folder import RunFolder

TINY = """
recipe: tiny
model: {name: ms_resnet8, T: 2, width: 4, tail_init: 0.5}
data: {kind: synthetic, classes: 3, channels: 1, size: 8, train: 50, test: 27}
optim: {kind: sgd, lr: 0.05}
schedule: {kind: constant}
train: {epochs: 4, batch_size: 8, test_batch_size: 10, sync_norm: true, tensorboard: false, ema: 0.5}
"""


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def start(folder, world, *arguments):
    """The command line in ``world`` processes."""
    shared = {"WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    processes = []
    for rank in range(world):
        env = {**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "isospike", "train", "--device", "cpu", *map(str, arguments)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": folder}
        processes.append(subprocess.Popen(command, env=env, **pipes))
    return processes


def finish(processes, code=0):
    """What each said, once all have ended with this exit code."""
    said = [process.communicate(timeout=180) for process in processes]
    for process, (_, errors) in zip(processes, said, strict=True):
        assert process.returncode == code, errors
    return [out for out, _ in said]


def train(folder, world, *arguments):
    return finish(start(folder, world, *arguments))


def numbers(run, kind):
    records = [r for r in RunFolder(run).read_metrics() if r["kind"] == kind]
    return [(r["split"], r["step"], pytest.approx(r["loss"], rel=1e-3), r["accuracy"]) for r in records]


@pytest.mark.dist
def test_two_processes_train_as_one_at_the_same_joint_batch(tmp_path):
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(TINY)
    train(tmp_path, 1, "--recipe", recipe, "--out", "one")
    first, second = train(tmp_path, 2, "--recipe", recipe, "--set", "train.batch_size=4", "--out", "two")
    assert "test accuracy" in first
    assert second == ""  # only the first process talks
    one, two = tmp_path / "one", tmp_path / "two"
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
def test_a_run_without_a_name_gets_one_folder_for_all_and_can_be_resumed(tmp_path):
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(TINY)
    common = ["--recipe", recipe, "--set", "train.batch_size=4", "--set", "train.sync_norm=false"]
    train(tmp_path, 2, *common, "--out", "whole")
    train(tmp_path, 2, *common, "--max-steps", 5)
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["tiny"]
    train(tmp_path, 2, "--resume", "runs/tiny")
    whole, parts = (RunFolder(tmp_path / name) for name in ("whole", "runs/tiny"))
    for kind in ("step", "epoch"):
        assert numbers(whole.path, kind) == numbers(parts.path, kind)
    # Norms that are not synchronised drift apart, but all processes must test the network that is saved.
    said = subprocess.run(
        [sys.executable, "-m", "isospike", "eval", "whole", "--json"], cwd=tmp_path, capture_output=True, check=True
    )
    tested = [r for r in whole.read_metrics() if r["kind"] == "epoch" and r["split"] == "test"]
    assert json.loads(said.stdout)["loss"] == pytest.approx(tested[-1]["loss"], rel=1e-5)


@pytest.mark.dist
def test_weighted_and_frozen_training_is_that_of_one_process(tmp_path):
    """What is drawn, how classes weigh, and which parts stay do not depend on the number of processes."""
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(TINY)
    train(tmp_path, 1, "--recipe", recipe, "--max-steps", 2, "--out", "first")
    weighted = "{kind: cross_entropy, class_weights: balanced}"
    changes = [f"objective={weighted}", "train.sampling=[1, 4, 2]", "train.freeze=[stem]", "train.weights=first"]
    common = ["--recipe", recipe, *(word for change in changes for word in ("--set", change))]
    train(tmp_path, 1, *common, "--out", "one")
    train(tmp_path, 2, *common, "--set", "train.batch_size=4", "--out", "two")
    assert numbers(tmp_path / "one", "step") == numbers(tmp_path / "two", "step")
    assert numbers(tmp_path / "one", "epoch") == numbers(tmp_path / "two", "epoch")


@pytest.mark.dist
def test_a_run_does_not_go_on_in_another_number_of_processes(tmp_path):
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(TINY)
    train(tmp_path, 2, "--recipe", recipe, "--set", "train.batch_size=4", "--max-steps", 2, "--out", "run")
    (alone,) = start(tmp_path, 1, "--resume", "run")
    _, said = alone.communicate(timeout=180)
    assert alone.returncode == 2
    assert "last.safetensors take 2 x 4 images (processes x train.batch_size), and would now take 1 x 4" in said
    with locked_elsewhere(tmp_path / "run"):
        both = [process.communicate(timeout=180)[1] for process in start(tmp_path, 2, "--resume", "run")]
    for said in both:
        assert said.startswith("error: another process is working on the run in run: wait for it, or stop it")
    train(tmp_path, 2, "--resume", "run", "--max-steps", 3)


@pytest.mark.dist
def test_a_signal_to_one_process_stops_all_at_the_same_step(tmp_path):
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(TINY)
    common = ["--recipe", recipe, "--set", "train.batch_size=4", "--set", "data.train=16000", "--out", "run"]
    processes = start(tmp_path, 2, *common)
    metrics, deadline = tmp_path / "run" / "metrics.jsonl", time.monotonic() + 60
    while not (metrics.exists() and metrics.read_text().count("\n") > 9) and time.monotonic() < deadline:
        time.sleep(0.02)
    processes[1].send_signal(signal.SIGTERM)
    first, _ = finish(processes, code=1)
    assert "isospike train --resume" in first
    done = max(step for _, step, _, _ in numbers(tmp_path / "run", "step"))
    assert 9 < done < 1900  # before the test at the end of the epoch, which would stop as well
    train(tmp_path, 2, "--resume", "run", "--max-steps", done + 7)
    train(tmp_path, 2, *common[:-1], "whole", "--max-steps", done + 7)
    assert numbers(tmp_path / "run", "step") == numbers(tmp_path / "whole", "step")

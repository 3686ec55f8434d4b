"""A run that is stopped: what it saves, what it says, and that it goes on to the same bits."""

import signal
import subprocess
import sys
import time

import pytest

from helpers import TINY
from isospike.run_folder import RunFolder
from test_cli import call

FURTHER = 100  # steps; the third of the four epochs begins behind the 90th, long after the signal


def start(folder, *arguments):
    """Training in a process of its own, once it has made a few steps."""
    command = [sys.executable, "-m", "isospike", "train", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    metrics = folder / "metrics.jsonl"
    deadline = time.monotonic() + 60
    while not (metrics.exists() and metrics.read_text().count("\n") > 12) and time.monotonic() < deadline:
        time.sleep(0.02)
    return process


def losses(folder):
    return [(r["step"], r["loss"]) for r in RunFolder(folder).read_metrics() if r["kind"] == "step"]


@pytest.fixture(scope="module")
def long_run():
    return [*TINY, "--set", "train.epochs=4", "--set", "train.checkpoint_every=10", "--device", "cpu"]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, long_run):
    folder = tmp_path_factory.mktemp("whole") / "run"
    call("train", *long_run, "--max-steps", FURTHER, "--out", folder)
    return losses(folder)


def go_on(folder, uninterrupted):
    """Resume the run, into the next epoch at the least; all of it must be what the other has."""
    call("train", "--resume", folder, "--max-steps", FURTHER)
    assert losses(folder) == uninterrupted


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_says_how_to_go_on(tmp_path, monkeypatch, long_run, uninterrupted, number):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    folder = tmp_path / "run"
    process = start(folder, *long_run, "--out", str(folder))
    process.send_signal(number)
    said, errors = process.communicate(timeout=60)
    assert process.returncode == 1, errors
    assert f"got {number.name}" in said
    assert f"isospike train --resume {folder}" in said
    assert all(line.startswith("note: ") for line in errors.splitlines()), errors
    assert 12 < len(losses(folder)) < FURTHER
    go_on(folder, uninterrupted)


def test_kill_9_loses_at_most_the_steps_since_the_last_checkpoint(
    tmp_path, monkeypatch, capsys, long_run, uninterrupted
):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    folder = tmp_path / "run"
    process = start(folder, *long_run, "--out", str(folder))
    process.kill()
    process.communicate()
    done = len(losses(folder))
    assert done < FURTHER
    go_on(folder, uninterrupted)
    taken_up = int(capsys.readouterr().out.split("resumed at step ")[1].split()[0])
    assert done - 10 <= taken_up <= done
    assert taken_up >= 10

"""The run folder: who may write into it, and what happens where the disk takes nothing more."""

import errno
import json
import resource
import subprocess
import sys
import warnings

import pytest

from helpers import locked_elsewhere
from isospike.errors import ConfigError, IsospikeWarning, RunFailed
from isospike.run_folder import MetricsWriter, RunFolder, locked, new_folder, write_json, write_text
from isospike.writing import atomic_write

FULL = """
import resource, sys
from pathlib import Path
from isospike.errors import RunFailed
from isospike.run_folder import MetricsWriter, write_json
resource.setrlimit(resource.RLIMIT_FSIZE, (200, resource.RLIM_INFINITY))
"""


def on_a_full_disk(code, folder):
    """Run ``code`` in a process that can write 200 bytes into a file and no more; what it printed."""
    command = [sys.executable, "-c", FULL + code, str(folder)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_a_record_that_the_disk_does_not_take_is_said_and_closing_does_not_hide_it(tmp_path):
    said = on_a_full_disk(
        "log = MetricsWriter(Path(sys.argv[1]) / 'metrics.jsonl', 0)\n"
        "try:\n"
        "    for step in range(1000):\n"
        "        log.write({'step': step})\n"
        "except RunFailed as error:\n"
        "    print(error)\n"
        "log.close()\n",
        tmp_path,
    )
    assert said == f"cannot write {tmp_path}/metrics.jsonl: File too large\n"
    lines = (tmp_path / "metrics.jsonl").read_text().split("\n")
    assert [json.loads(line)["step"] for line in lines[:-1]] == list(range(len(lines) - 1))


def test_a_file_that_the_disk_does_not_take_leaves_the_one_before_and_no_part(tmp_path):
    write_json(tmp_path / "x.json", {"old": 1})
    said = on_a_full_disk(
        "for name in ('x', 'new'):\n"
        "    try:\n"
        "        write_json(Path(sys.argv[1]) / f'{name}.json', 'a' * 1000)\n"
        "    except RunFailed as error:\n"
        "        print(error)\n",
        tmp_path,
    )
    assert said.splitlines() == [
        f"cannot write {tmp_path}/x.json: File too large; the one before is intact",
        f"cannot write {tmp_path}/new.json: File too large",
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]
    assert json.loads((tmp_path / "x.json").read_text()) == {"old": 1}
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 200


def test_a_disk_that_is_full_from_the_start_is_said_and_keeps_nothing_of_the_trial(tmp_path):
    said = on_a_full_disk(
        "from isospike.errors import ConfigError\n"
        "from isospike.run_folder import RunFolder\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))\n"
        "try:\n"
        "    RunFolder(Path(sys.argv[1])).check_space(1)\n"
        "except ConfigError as error:\n"
        "    print(error)\n",
        tmp_path,
    )
    assert said == f"cannot write to {tmp_path}/checkpoints: File too large\n"
    assert not list((tmp_path / "checkpoints").iterdir())


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_nothing_is_left_of_a_write_that_is_broken_off(tmp_path, error):
    write_text(tmp_path / "x", "old")

    def break_off():
        with atomic_write(tmp_path / "x") as part:
            part.write_text("half of it")
            raise error

    with pytest.raises(error):
        break_off()
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
    assert (tmp_path / "x").read_text() == "old"


def test_what_cannot_be_replaced_is_a_sentence(tmp_path):
    (tmp_path / "x").mkdir()
    with pytest.raises(RunFailed, match=r"cannot write .*/x: Is a directory$"):
        write_text(tmp_path / "x", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_a_folder_is_locked_against_other_processes_while_they_live(tmp_path):
    with locked_elsewhere(tmp_path):
        refused = pytest.raises(ConfigError, match=rf"another process is working on the run in {tmp_path}: wait for it")
        with refused, RunFolder(tmp_path).locked():
            raise AssertionError
    with RunFolder(tmp_path).locked():
        code = f"import fcntl; fcntl.lockf(open('{tmp_path}/.lock', 'w'), fcntl.LOCK_EX | fcntl.LOCK_NB)"
        other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "BlockingIOError" in other.stderr


def test_children_of_a_process_do_not_keep_its_lock(tmp_path):
    """The workers of a loader are forks, and outlive a process that is killed by some seconds."""
    code = (
        "import os, sys, time\n"
        "from pathlib import Path\n"
        "from isospike.run_folder import locked\n"
        "with locked(Path(sys.argv[1]), 'run'):\n"
        "    child = os.fork()\n"
        "    if not child:\n"
        "        time.sleep(30)\n"
        "    print(child, flush=True)\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        child = int(parent.stdout.readline())
        parent.wait()
        try:
            with locked(tmp_path, "run"):
                pass
        finally:
            subprocess.run(["kill", "-9", str(child)], check=True)


def test_a_file_system_without_locks_is_said_once_and_works(tmp_path, monkeypatch):
    def no_locks(*_):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr("fcntl.lockf", no_locks)
    sentence = "cannot be locked .Function not implemented.: take care that no second process works on it"
    with pytest.warns(IsospikeWarning, match=sentence), locked(tmp_path, "run"):
        pass
    monkeypatch.undo()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with locked(tmp_path, "run"):
            pass


@pytest.mark.parametrize("name", ["../../x", "..", ".", "", "/abs", "a/../../x", "a/.."])
def test_a_recipe_puts_no_run_outside_runs(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="which names no folder below runs/: name one with --out"):
        new_folder(name)


def test_a_new_run_takes_a_name_that_is_free(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert str(new_folder("digits")) == "runs/digits"
    (tmp_path / "runs" / "digits").mkdir(parents=True)
    (tmp_path / "runs" / "digits-2").mkdir()
    assert str(new_folder("digits")) == "runs/digits-3"
    assert str(new_folder("mine/digits")) == "runs/mine/digits"


def test_records_go_on_from_the_size_that_they_are_told(tmp_path):
    path = tmp_path / "metrics.jsonl"
    first = MetricsWriter(path, 0)
    first.write({"step": 1})
    size = first.size
    first.write({"step": 2})
    first.close()
    again = MetricsWriter(path, size)
    again.write({"step": 3})
    again.close()
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 3]

"""What follows the machine, waits that say what they wait for, and signals that end a run at once."""

import itertools
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
import yaml

from isospike.cli import sweep
from isospike.data import images, load_dataset
from isospike.data.folder import FolderData
from isospike.errors import DataError
from isospike.recipes import list_recipes, load_recipe
from isospike.train import machine
from isospike.train.machine import follow_machine, note_emulated
from isospike.train.stopping import ECHO
from isospike.train.waiting import waiting_for
from test_cli import call, write_photographs

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.fixture(autouse=True)
def two_cores(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1})


def followed(device, *overrides, recipe="imagenet_ms_resnet18", flags=frozenset()):
    """Precision and workers that are taken, and what is said."""
    said = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(machine, "_cpu_flags", lambda: flags)
        config = follow_machine(load_recipe(recipe, overrides), device, said.append, asked=overrides)
        note_emulated([config.train.precision], device, said.append)
    return config.train.precision, config.data.workers, said


def test_a_recipe_for_gpus_says_what_a_cpu_takes_of_it():
    precision, workers, said = followed(CPU)
    assert (precision, workers) == ("fp32", 2)
    assert said == [
        "the recipe asks for train.precision=fp16, taken is fp32: this CPU only emulates fp16, which is much slower "
        "(--set train.precision=fp16 insists)",
        "data.workers=8 was asked for, taken is 2: there are 2 cores; the results are the same",
    ]
    assert followed(GPU) == ("fp16", 2, said[1:])


@pytest.mark.parametrize("recipe", [name for name in list_recipes() if name.startswith(("imagenet", "folder"))])
def test_no_other_key_of_a_recipe_changes_and_following_twice_changes_nothing(recipe):
    config = load_recipe(recipe)
    taken = follow_machine(config, CPU, lambda text: None)
    assert taken.train.precision == "fp32"
    assert taken.data.workers == 2
    train = config.train.model_copy(update={"precision": "fp32"})
    data = config.data.model_copy(update={"workers": 2})
    assert taken == config.model_copy(update={"train": train, "data": data})
    said = []
    assert follow_machine(taken, CPU, said.append) == taken
    assert said == []


@pytest.mark.parametrize("override", ["train.precision=fp16", "train={epochs: 1, batch_size: 2, precision: fp16}"])
def test_a_precision_that_is_set_by_hand_is_obeyed_with_a_line(override):
    precision, _, said = followed(CPU, override, "data.workers=0")
    assert precision == "fp16"
    assert said == [
        "train.precision=fp16 was asked for or begun with and is taken, but this CPU only emulates fp16, which is much "
        "slower; fp32 is faster"
    ]


@pytest.mark.parametrize(
    ("flags", "precision"), [({"avx2"}, "fp32"), ({"avx2", "avx512_bf16"}, "bf16"), ({"bf16"}, "bf16")]
)
def test_bf16_is_taken_where_the_cpu_multiplies_in_it(tmp_path, flags, precision):
    path = tmp_path / "mine.yaml"
    path.write_text("base: folder_ms_resnet20\ntrain: {precision: bf16}\n")
    taken, _, said = followed(CPU, recipe=str(path), flags=flags)
    assert taken == precision
    assert len(said) == (precision == "fp32")


def test_flags_of_the_cpu_are_read_from_the_system(tmp_path):
    x86, arm = tmp_path / "x86", tmp_path / "arm"
    x86.write_text("processor\t: 0\nflags\t\t: sse2 avx512_bf16\nprocessor\t: 1\nflags\t\t: sse2\n")
    arm.write_text("processor\t: 0\nFeatures\t: fp asimd bf16\n")
    assert machine._cpu_flags(x86) == {"sse2", "avx512_bf16"}
    assert machine._cpu_flags(arm) == {"fp", "asimd", "bf16"}
    assert machine._cpu_flags(tmp_path / "none") == frozenset()


def test_no_more_processes_decode_than_there_are_cores(monkeypatch):
    """Wherever a run trained with more is read: in eval, predict and energy too."""
    asked = []
    monkeypatch.setattr(images, "DataLoader", lambda *args, num_workers, **more: asked.append(num_workers) or [])
    for workers in (0, 1, 2, 8):
        split = images.FileImages([b""], torch.zeros(1), lambda image, rng: image, workers)
        list(split.batches([torch.tensor([0])], seed=0))
    assert asked == [0, 1, 2, 2]


def test_a_run_records_what_was_taken(tmp_path, capsys):
    write_photographs(tmp_path / "images")
    path = tmp_path / "gpu.yaml"
    small = {"name": "ms_resnet8", "T": 1}
    train = {"epochs": 1, "batch_size": 4, "precision": "fp16", "tensorboard": False}
    data = {"kind": "folder", "workers": 8, "size": 16, "test_resize": 16}
    path.write_text(yaml.safe_dump({"base": "digits_ms_resnet20", "model": small, "train": train, "data": data}))
    call("train", "--recipe", path, "--data-dir", tmp_path / "images", "--out", tmp_path / "run")
    said = capsys.readouterr().out
    assert "taken is fp32" in said
    assert "taken is 2" in said
    written = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert (written["train"]["precision"], written["data"]["workers"]) == ("fp32", 2)
    plan = ["--topologies", "ms", "--depths", "8", "--seeds", "0", "--jobs", "1"]
    call("sweep", "--recipe", path, *plan, "--data-dir", tmp_path / "images", "--out", tmp_path / "sweep")
    assert "taken is fp32" in capsys.readouterr().out
    base = json.loads((tmp_path / "sweep" / "plan.json").read_text())["base"]
    assert (base["train"]["precision"], base["data"]["workers"]) == ("fp32", 2)


def test_emulation_is_said_of_runs_that_go_on_and_of_grids(tmp_path, capsys, monkeypatch):
    line = "train.precision=fp16 was asked for or begun with and is taken, but this CPU only emulates fp16"
    small = ["--set", "model.name=ms_resnet8", "--set", "model.T=1", "--set", "train.batch_size=4"]
    recipe = ["--recipe", "digits_ms_resnet20", *small, "--set", "train.tensorboard=false"]
    call("train", *recipe, "--set", "train.precision=fp16", "--max-steps", 1, "--out", tmp_path / "run")
    assert line in capsys.readouterr().out
    call("train", "--resume", tmp_path / "run", "--max-steps", 1)
    assert line in capsys.readouterr().out
    monkeypatch.setattr(sweep, "run_sweep", lambda *args, **options: ())
    axes = ["--topologies", "ms", "--depths", "8", "--seeds", "0", "--set", "train.precision=fp32,fp16"]
    call("sweep", "--recipe", "digits_sweep", *axes, "--out", tmp_path / "sweep", expect=1)
    assert line in capsys.readouterr().out
    call("sweep", "--resume", tmp_path / "sweep", expect=1)
    assert capsys.readouterr().out.count(line) == 1


def test_a_recipe_for_cifar_on_photographs_says_how_they_are_read(tmp_path, capsys):
    write_photographs(tmp_path / "images")
    recipe = ["--recipe", "cifar10_ms_resnet20", "--data-dir", tmp_path / "images"]
    call("train", *recipe, expect=2)
    said = capsys.readouterr().err
    assert "which are no classes of cifar10" in said
    option = said.partition("--set '")[2].partition("'")[0]
    small = ["--set", "model.name=ms_resnet8", "--set", "train.batch_size=4", "--set", "train.tensorboard=false"]
    call("train", *recipe, "--set", option, *small, "--out", tmp_path / "run", "--max-steps", 1)
    assert isinstance(load_recipe("cifar10_ms_resnet20", [option]).data, FolderData)


def test_a_wait_says_what_it_waits_for_once_it_is_one():
    said = []
    with waiting_for("thinking ...", said.append, patience=0.01):
        time.sleep(0.2)
    with waiting_for("done already", said.append, patience=0.2):
        pass
    time.sleep(0.3)
    assert said == ["thinking ..."]
    with pytest.raises(DataError), waiting_for("failing", said.append, patience=0.1):
        raise DataError("no images")
    time.sleep(0.2)
    assert said == ["thinking ..."]


# Python runs no handler while it is in an operation, here a lock that never opens.
STUCK = """
import ctypes
from isospike.train.stopping import listen_for_signals, second_signal_ends
say = lambda text: print(text, flush=True)
library, lock = ctypes.CDLL(None), ctypes.create_string_buffer(256)
with second_signal_ends(say), listen_for_signals() as stop:
    library.pthread_mutex_lock(lock)
    say("stuck")
    library.pthread_mutex_lock(lock)
"""
FREE = """
import os, signal
from isospike.train.stopping import SIGNALS, listen_for_signals, second_signal_ends
said = []
before = [signal.getsignal(number) for number in SIGNALS]
for name in ("SIGINT", "SIGTERM"):
    with second_signal_ends(said.append):
        with listen_for_signals() as stop:
            os.kill(os.getpid(), getattr(signal, name))
        assert stop.signal == name
    assert said.pop() == f"got {name}: saving after this step, then stopping; a second signal ends at once"
    assert not said
assert [signal.getsignal(number) for number in SIGNALS] == before
assert signal.set_wakeup_fd(-1) == -1
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_second_signal_ends_a_run_that_is_stuck_in_an_operation(number):
    process = subprocess.Popen([sys.executable, "-c", STUCK], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "stuck\n"
    process.send_signal(number)
    first = f"got {number.name}: saving after this step, then stopping; a second signal ends at once\n"
    assert process.stdout.readline() == first
    process.send_signal(number)  # at once, as timeout sends it to a process and then to its group
    time.sleep(ECHO)
    assert process.poll() is None
    process.send_signal(number)
    second = f"got {number.name} after {number.name}: ended at once; what was saved before is whole\n"
    assert process.stdout.readline() == second
    assert process.wait(10) == 1
    assert process.stdout.read() == ""


def test_the_first_signal_is_a_request_and_afterwards_all_is_as_it_was():
    subprocess.run([sys.executable, "-c", FREE], check=True)


def test_a_signal_to_the_whole_group_leaves_the_decoding_of_images_alone(tmp_path):
    """As service managers and timeout send it: the run still has to come to the end of its step."""
    write_photographs(tmp_path)
    split = load_dataset(FolderData(kind="folder", dir=str(tmp_path), workers=2, size=16, test_resize=16)).train
    order = torch.arange(8).repeat(10).split(2)
    batches = split.batches(order, seed=0)
    next(batches)
    workers = multiprocessing.active_children()
    assert len(workers) == 2
    for worker, number in itertools.product(workers, (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)):
        os.kill(worker.pid, number)
    assert len(list(batches)) == len(order) - 1

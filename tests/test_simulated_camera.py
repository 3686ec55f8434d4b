"""Images of any data set as simulated recordings: the same frames and cache as real ones."""

import os
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from isospike.config import parse_yaml, read_config, with_data_dir
from isospike.data import DATA, Loader, images, load_dataset
from isospike.data.images import read_image
from isospike.errors import CheckpointError, ConfigError, DataError
from isospike.events import bins_of_count, integrate
from isospike.train.checkpoint import check_same_run
from isospike.train.machine import limit_workers
from test_events_train import BASE

SMALL = {"kind": "synthetic", "classes": 2, "channels": 3, "size": 12, "train": 6, "test": 4}


def spec(tmp_path, images=SMALL, **options):
    values = {"kind": "simulated_camera", "T": 3, "cache": str(tmp_path / "cache"), "images": images, **options}
    return read_config({**parse_yaml(BASE, "BASE"), "data": values}, "tiny").data


def frames(data, split="train"):
    images = getattr(data, split)
    return next(images.batches([torch.arange(len(images))], 0))


def test_frames_are_those_of_the_recordings(tmp_path):
    one = spec(tmp_path)
    data, source = load_dataset(one), load_dataset(one.images)
    assert (data.T, data.channels, data.size, data.classes) == (3, 2, 12, source.classes)
    for split, first in (("train", 0), ("test", 6)):
        assert torch.equal(getattr(data, split).labels, getattr(source, split).labels)
        recordings = one.record(getattr(source, split).images, first)
        assert min(map(len, recordings)) > 100
        stacks = [integrate(events, bins_of_count(events, 3)) for events in recordings]
        assert np.array_equal(frames(data, split), np.stack(stacks, axis=1))
    batch = next(Loader(data.train, 4, shuffle=False).epoch(0))
    assert batch.images.shape == (3, 4, 2, 12, 12)


@pytest.mark.parametrize("kind", ["digits", "synthetic"])
def test_all_kinds_of_images_without_files_are_recorded(tmp_path, kind):
    small = {"digits": {"kind": "digits"}, "synthetic": {**SMALL, "channels": 1}}[kind]
    source, data = load_dataset(spec(tmp_path, small).images), load_dataset(spec(tmp_path, small, size=4, samples=12))
    assert (len(data.train), len(data.test), data.size) == (len(source.train), len(source.test), 4)
    assert (frames(data, "test").sum((0, 2, 3, 4)) >= 3).all()


@pytest.mark.parametrize("motion", ["saccades", "walk"])
def test_a_seed_decides_everything(tmp_path, motion):
    one, again, other = (
        frames(load_dataset(spec(tmp_path / name, motion=motion, seed=seed)))
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


@pytest.mark.parametrize(
    "change",
    [
        {"camera": {"threshold": 0.3}}, {"camera": {"spread": 0.0}}, {"camera": {"dark": 0.5}},
        {"camera": {"refractory": 20_000}}, {"camera": {"leak": 50.0}}, {"camera": {"noise": 50.0}},
        {"reach": 1.0}, {"duration": 3_000, "camera": {"refractory": 500}}, {"samples": 12}, {"motion": "walk"},
        {"images": {**SMALL, "channels": 1}}, {"seed": 1}, {"bins": "time"}, {"bins": "time", "window": 5_000},
    ],
    ids=str,
)  # fmt: skip
def test_every_option_makes_other_frames_and_a_file_of_its_own(tmp_path, change):
    plain = frames(load_dataset(spec(tmp_path)))
    assert not torch.equal(frames(load_dataset(spec(tmp_path, **change))), plain)
    assert torch.equal(frames(load_dataset(spec(tmp_path))), plain)
    assert len(list((tmp_path / "cache").glob("*.frames"))) == 2


def test_frames_are_made_once(tmp_path, monkeypatch):
    first = frames(load_dataset(spec(tmp_path)))
    monkeypatch.setattr(DATA["simulated_camera"], "record", lambda *_: pytest.fail("recorded again"))
    assert torch.equal(frames(load_dataset(spec(tmp_path))), first)


@pytest.fixture
def photographs(tmp_path):
    """A folder of 8 images of two classes, the spec of its events, and how many images have been decoded."""
    for n in range(8):
        path = tmp_path / "data" / ("train" if n < 6 else "val") / "ab"[n % 2] / f"{n}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(n).integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(path)
    folder = {"kind": "folder", "dir": str(tmp_path / "data"), "workers": 0, "size": 12, "test_resize": 12}
    return spec(tmp_path, folder)


def test_images_in_files_are_decoded_for_the_recording_alone(photographs, tmp_path, monkeypatch):
    decoded = []
    monkeypatch.setattr(images, "read_image", lambda *a: decoded.append(a[1]) or read_image(*a))
    first = frames(load_dataset(photographs))
    assert len(decoded) == 8
    assert torch.equal(frames(load_dataset(photographs)), first)
    assert len(decoded) == 8
    (tmp_path / "data/train/b/1.png").rename(tmp_path / "data/train/a/0.png")
    shutil.copy(tmp_path / "data/train/b/3.png", tmp_path / "data/train/b/1.png")
    now = frames(load_dataset(photographs))
    assert [n for n in range(6) if not torch.equal(now[:, n], first[:, n])] == [0, 3]  # a has 0, 2, 4
    other = photographs.images.model_copy(update={"test_resize": 15})
    assert not torch.equal(frames(load_dataset(photographs.model_copy(update={"images": other}))), now)


def test_what_must_be_said_of_the_images_is_said_of_their_events(tmp_path):
    for split, count in {"train": 20, "test": 10}.items():
        for n in range(count):
            path = tmp_path / "cifar" / split / str(n % 10) / f"{n}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.random.default_rng(n).integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(path)
    data = load_dataset(spec(tmp_path, {"kind": "cifar10", "dir": str(tmp_path / "cifar")}))
    assert (data.name, data.note) == ("simulated events of cifar10", "JPEG copy")


def test_workers_of_the_images_are_as_many_as_there_are_cores(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1})
    data = {"kind": "simulated_camera", "images": {"kind": "folder", "workers": 8}}
    config = read_config({**parse_yaml(BASE, "BASE"), "data": data}, "tiny")
    said = []
    taken = limit_workers(config, said.append)
    assert taken.data.images.workers == 2
    assert said == [
        "data.images.workers=8 was asked for, taken is 2: there are 2 cores; the results are the same"
    ]  # fmt: skip
    moved = with_data_dir(taken, "elsewhere")
    moved = moved.model_copy(update={"data": moved.data.model_copy(update={"cache": "here"})})
    check_same_run(config.model_dump(mode="json"), moved, tmp_path)
    other = moved.data.images.model_copy(update={"size": 16})
    moved = moved.model_copy(update={"data": moved.data.model_copy(update={"images": other})})
    with pytest.raises(CheckpointError, match="was written with data.images.size = 224 and config.yaml now says 16"):
        check_same_run(config.model_dump(mode="json"), moved, tmp_path)


def test_what_cannot_be_recorded_is_named(tmp_path):
    nested = {"kind": "simulated_camera", "images": SMALL, "cache": str(tmp_path / "cache"), "T": 2}
    with pytest.raises(DataError, match="a simulated camera records images, and simulated events of synthetic holds"):
        load_dataset(spec(tmp_path, nested))
    still = {"reach": 0.0, "camera": {"leak": 0.0, "noise": 0.0}}
    with pytest.raises(DataError, match="training image 0 of synthetic: a recording of 0 events is too short for 3"):
        load_dataset(spec(tmp_path, **still))
    with pytest.raises(ConfigError, match=r"data.images.kind is 'digitz', which is none of .*synthetic"):
        spec(tmp_path, {"kind": "digitz"})
    with pytest.raises(ConfigError, match=r"unknown key 'data.images.sise'; nearest: size"):
        spec(tmp_path, {**SMALL, "sise": 3})
    with pytest.raises(ConfigError, match=r"data.camera.threshold: input should be greater than 0, got 0"):
        spec(tmp_path, camera={"threshold": 0.0})


def test_the_folder_is_that_of_the_images(tmp_path):
    values = {**parse_yaml(BASE, "BASE"), "data": {"kind": "simulated_camera", "images": {"kind": "folder"}}}
    config = with_data_dir(read_config(values, "tiny"), "photographs")
    assert config.data.images.dir == "photographs"
    values["data"]["images"] = SMALL
    with pytest.raises(ConfigError, match="the data 'synthetic' is not read from a folder: leave --data-dir out"):
        with_data_dir(read_config(values, "tiny"), "photographs")

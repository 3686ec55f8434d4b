"""Readers that are given damaged files: how a sound one is made, how it is damaged, and how it is read."""

import io
import json
import pickle
import tarfile
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image

import isospike as iso
import report_runs
from bench_results import growth_result, result, row
from event_files import WRITERS, aedat31, some_events
from isospike.bench import Case
from isospike.bench.saved import render_file
from isospike.config import apply_overrides, parse_yaml, read_config, read_yaml
from isospike.data import Loader, load_dataset
from isospike.data.cifar import CIFAR10, CifarData
from isospike.data.digits import DigitsData
from isospike.data.dvs_gesture import DVSGestureData
from isospike.data.folder import FolderData
from isospike.data.images import read_image
from isospike.processes import World
from isospike.report.comparison import comparison_sections
from isospike.report.page import run_sections
from isospike.run_folder import RunFolder, write_json
from isospike.sweep import collect, open_sweep, plan_sweep, save_plan
from isospike.train.build import load_trained
from isospike.train.display import SilentDisplay
from isospike.train.trainer import Trainer
from isospike.weights import load_tensors, save_tensors
from isospike.weights.foreign import read_state_dict
from mutations import damaged_bytes, damaged_text, damaged_value

Damage = Callable[[Path, Random], None]


@dataclass(frozen=True)
class Subject:
    """A reader.

    Args:
        make: Writes sound files into a folder and names those that may be damaged.
        damage: Changes one of them.
        read: Reads the folder; raises nothing but errors of isospike. Gets the file that was damaged.
    """

    make: Callable[[Path], list[Path]]
    damage: Damage
    read: Callable[[Path, Path], object]


def in_bytes(path: Path, rng: Random) -> None:
    path.write_bytes(damaged_bytes(path.read_bytes(), rng))


def in_text(path: Path, rng: Random) -> None:
    damage = damaged_text(path.read_text(), rng)
    path.write_bytes(damage.encode("utf-8", "surrogatepass"))


def in_value(path: Path, rng: Random) -> None:
    """JSON, whole or a value per line."""
    if rng.random() < 0.2:
        in_bytes(path, rng)
    elif path.suffix == ".jsonl":
        lines = path.read_text().splitlines()
        place = rng.randrange(len(lines))
        lines[place] = json.dumps(damaged_value(json.loads(lines[place]), rng))
        path.write_text("\n".join(lines) + "\n")
    else:
        path.write_text(json.dumps(damaged_value(json.loads(path.read_text()), rng)))


def either(*ways: Damage) -> Damage:
    return lambda path, rng: rng.choice(ways)(path, rng)


# Images and labels ---------------------------------------------------------------------------------------------------


def some_pixels(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def make_pickles(folder: Path) -> list[Path]:
    paths = [folder / name for name in (*CIFAR10.pickle_files["train"], *CIFAR10.pickle_files["test"])]
    for protocol, path in enumerate(paths):
        content = {b"data": some_pixels(10, 3072), b"labels": list(range(10)), b"names": ["a", ("b", 1.5, None)]}
        path.write_bytes(pickle.dumps(content, protocol=protocol % 6))
    return paths


def in_instructions(path: Path, rng: Random) -> None:
    """Not in the pixels, where most bytes are, and which say nothing."""
    content = path.read_bytes()
    start = content.find(some_pixels(10, 3072).tobytes()[:8])
    end = start + 30720
    if start < 0 or rng.random() < 0.2:
        in_bytes(path, rng)
    elif rng.random() < 0.5:
        path.write_bytes(damaged_bytes(content[:start], rng) + content[start:])
    else:
        path.write_bytes(content[:end] + damaged_bytes(content[end:], rng))


def read_cifar(folder: Path, damaged: Path) -> object:
    return load_dataset(CifarData(kind="cifar10", dir=str(folder)))


def encoded(pixels: np.ndarray, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


def make_parquet(folder: Path) -> list[Path]:
    image = encoded(np.full((32, 32, 3), 9, np.uint8), "PNG")
    table = pa.table({"img": [{"bytes": image, "path": None}] * 10, "label": list(range(10))})
    paths = [folder / f"{split}-0.parquet" for split in ("train", "test")]
    for path, compression in zip(paths, ("snappy", "zstd"), strict=True):
        pq.write_table(table, path, compression=compression)
    return paths


KINDS = {
    "PNG": "png", "JPEG": "jpg", "GIF": "gif", "BMP": "bmp", "PPM": "ppm", "TIFF": "tif", "WEBP": "webp",
    "JPEG2000": "jp2",
}  # fmt: skip


def make_images(folder: Path) -> list[Path]:
    exif = Image.Exif()
    exif[0x0112] = 6
    paths = []
    for kind, suffix in KINDS.items():
        for name, pixels in {"grey": some_pixels(9, 11), "colour": some_pixels(12, 8, 3)}.items():
            paths.append(folder / f"{name}.{suffix}")
            paths[-1].write_bytes(encoded(pixels, kind, **({} if kind in ("BMP", "PPM", "GIF") else {"exif": exif})))
    for name, pixels in {"deep": some_pixels(9, 11).astype(np.uint16) * 200, "alpha": some_pixels(9, 11, 4)}.items():
        for suffix in ("png", "tif"):
            paths.append(folder / f"{name}.{suffix}")
            Image.fromarray(pixels).save(paths[-1])
    return paths


def read_one_image(folder: Path, damaged: Path) -> object:
    return read_image(damaged, str(damaged)), read_image(damaged.read_bytes(), str(damaged), channels=1)


def make_folders(folder: Path) -> list[Path]:
    paths = [folder / split / name / "0.png" for split in ("train", "val") for name in "ab"]
    for path in paths:
        path.parent.mkdir(parents=True)
        path.write_bytes(encoded(some_pixels(20, 20, 3), "PNG"))
    return paths


def read_folders(folder: Path, damaged: Path) -> object:
    data = load_dataset(FolderData(kind="folder", dir=str(folder), size=8, test_resize=8, workers=0))
    return [list(Loader(split, 2, shuffle=False).epoch(0)) for split in (data.train, data.test)]


# Recordings of event cameras -----------------------------------------------------------------------------------------


def make_recordings(folder: Path) -> list[Path]:
    for kind, (format, write, _) in WRITERS.items():
        (folder / f"{kind}.{format}").write_bytes(write(some_events(200)))
    return sorted(folder.iterdir())


def read_recording(folder: Path, damaged: Path) -> object:
    """By its content, and as what its name says."""
    format = "hdf5" if damaged.suffix == ".h5" else damaged.suffix[1:]
    sound = [iso.events.read(damaged, format=format, sort=True)]
    return [*sound, iso.events.read(damaged, sensor=sound[0].sensor)]


def make_event_set(folder: Path) -> list[Path]:
    """A gesture set in pieces: the lists unpacked, one file of events in a zip and one in a tar."""
    events = [(t + n, x, y, p) for n, (t, x, y, p) in enumerate(some_events(440))]
    edges = [events[n][0] for n in range(0, 440, 39)]
    rows = [f"{number},{start},{end}" for number, (start, end) in enumerate(pairwise(edges), 1)]
    for split, user in {"train": "user01", "test": "user24"}.items():
        (folder / f"trials_to_{split}.txt").write_text(f"{user}_led.aedat\n")
        (folder / f"{user}_led_labels.csv").write_text("\n".join(["class,start,end", *rows]))
    with zipfile.ZipFile(folder / "a.zip", "w") as packed:
        packed.writestr("user01_led.aedat", aedat31(events))
    (folder / "user24_led.aedat").write_bytes(aedat31([(t, y, x, p) for t, x, y, p in events]))
    with tarfile.open(folder / "b.tar.gz", "w:gz") as archive:
        archive.add(folder / "user24_led.aedat", "user24_led.aedat")
    (folder / "user24_led.aedat").unlink()
    return sorted(folder.iterdir())


def read_event_set(folder: Path, damaged: Path) -> object:
    data = load_dataset(DVSGestureData(kind="dvs_gesture", dir=str(folder), T=2, size=16, cache=str(folder / "cache")))
    return [list(Loader(split, 4, shuffle=False).epoch(0)) for split in (data.train, data.test)]


def make_hdf5(folder: Path) -> list[Path]:
    import h5py

    with h5py.File(folder / "recording.h5", "w") as file:
        for name, values in zip("txyp", zip(*some_events(200), strict=True), strict=True):
            file.create_dataset(f"events/{name}", data=values, chunks=True, compression="gzip")
        file["t_offset"] = 3
    return [folder / "recording.h5"]


# Configurations ------------------------------------------------------------------------------------------------------


def make_config(folder: Path) -> list[Path]:
    text = report_runs.CONFIG + "augment: &a {crop: 4, policy: {kind: randaugment, n: 2}}\n"
    (folder / "recipe.yaml").write_text(text)
    return [folder / "recipe.yaml"]


def read_recipe(folder: Path, damaged: Path) -> object:
    return read_config(read_yaml(damaged), str(damaged))


def make_overrides(folder: Path) -> list[Path]:
    (folder / "--set").write_text("optim.lr=0.1\nmodel={name: ms_resnet8, T: 2}\ndata.kind=digits\ntrain.epochs=3")
    return [folder / "--set"]


def read_overrides(folder: Path, damaged: Path) -> object:
    text = damaged.read_bytes().decode("utf-8", "surrogateescape")  # as Python reads arguments
    return read_config(apply_overrides(parse_yaml(report_runs.CONFIG, "recipe"), text.split("\n")), "--set")


# Run folders and weights ---------------------------------------------------------------------------------------------


def make_run(folder: Path) -> list[Path]:
    run = report_runs.make_run(folder / "run", analyzed=True)
    report_runs.measure(run)
    report_runs.make_run(folder / "other")
    return [path for path in sorted(run.path.rglob("*.*")) if path.suffix in (".json", ".jsonl", ".yaml")]


def read_report(folder: Path, damaged: Path) -> object:
    run = RunFolder(folder / "run")
    problems = run_sections(run)[1] + comparison_sections([run, RunFolder(folder / "other")])[1]
    assert not [problem for problem in problems if "\n" in problem or len(problem) > 1000]
    return problems


def in_run(path: Path, rng: Random) -> None:
    (in_text if path.suffix == ".yaml" else in_value)(path, rng)


CHECKPOINT = Path("run/checkpoints/last.safetensors")


def make_checkpoint(folder: Path) -> list[Path]:
    report_runs.make_run(folder / "run", steps=0, tested=False)
    _trainer(RunFolder(folder / "run")).fit(max_steps=1)
    return [folder / CHECKPOINT]


def _trainer(run: RunFolder) -> Trainer:
    config, dataset = run.read_config(), load_dataset(DigitsData(kind="digits"))
    return Trainer(config, dataset, run, World(0, 1, torch.device("cpu")), SilentDisplay())


def under_its_hash(path: Path, rng: Random) -> None:
    """Another content, which the hash is right for."""
    tensors, meta = load_tensors(path)
    name = rng.choice(list(tensors))
    odd = {
        "dtype": lambda t: t.to(rng.choice((torch.int64, torch.bool, torch.complex64, torch.float8_e5m2, torch.uint8))),
        "half": lambda t: t.to(rng.choice((torch.float16, torch.float64, torch.bfloat16))),
        "shape": lambda t: t.reshape(-1)[: rng.randrange(t.numel() + 1)],
        "scalar": lambda t: t.reshape(-1)[:1].sum(),
        "deeper": lambda t: t[None],
        "nan": lambda t: t * float("nan"),
    }
    way = rng.choice(("meta", "name", "gone", *odd))
    if way == "meta":
        meta = damaged_value(meta, rng)
    elif way == "name":
        tensors[rng.choice(("", "model", "model.", "ema.x", "x\n", "é", "model." + "x" * 3000))] = tensors.pop(name)
    elif way == "gone":
        del tensors[name]
    else:
        tensors[name] = odd[way](tensors[name])
    save_tensors(path, tensors, meta)


def read_checkpoint(folder: Path, damaged: Path) -> object:
    """For a test, and to go on with the training."""
    run = RunFolder(folder / "run")
    load_trained(run, run.read_config(), num_classes=10, in_channels=1, which="last")
    trainer = _trainer(run)
    trainer.resume()
    return trainer.fit(max_steps=2)


def make_foreign(folder: Path) -> list[Path]:
    tensors = {f"module.layer1.0.conv{n}.weight": torch.ones(2, 3, 3, 3) for n in (1, 2)}
    tensors["module.bn1.num_batches_tracked"] = torch.tensor(3)
    for name, content in {"plain.pth": tensors, "wrapped.pth": {"state_dict": tensors, "epoch": 3}}.items():
        torch.save(content, folder / name)
        torch.save(content, folder / f"old_{name}", _use_new_zipfile_serialization=False)
    save_tensors(folder / "x.safetensors", tensors, {})
    return sorted(folder.iterdir())


def read_foreign(folder: Path, damaged: Path) -> object:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch, about old files
        return read_state_dict(damaged)


def make_pretrained(folder: Path) -> list[Path]:
    model = iso.create_model("ms_resnet8", num_classes=3, T=2, neuron={"kind": "lif", "decay": 0.25})
    model.inputs = iso.Inputs(8, (0.5,) * 3, (0.25,) * 3, ("a", "b", "c"))
    iso.save_pretrained(model, folder)
    return [folder / "config.json"]


def in_both(path: Path, rng: Random) -> None:
    """The options of ``config.json``, and those in the file of the weights with them: no longer two different saves."""
    config, weights = json.loads(path.read_text()), path.with_name("model.safetensors")
    config["options"] = damaged_value(config["options"], rng)
    path.write_text(json.dumps(config))
    save_tensors(weights, load_tensors(weights)[0], {"options": config["options"]})


def read_pretrained(folder: Path, damaged: Path) -> object:
    return iso.from_pretrained(folder)


def make_facts(folder: Path) -> list[Path]:
    run = report_runs.make_run(folder / "run", steps=0, tested=False)
    inputs = {"size": 8, "mean": [0.5], "std": [0.25], "classes": ["a", "b", "c"], "test_size": 9, "test_resize": 10}
    write_json(run.analysis("data"), {"name": "x", "note": "", **inputs})
    save_tensors(run.weights, iso.create_model("ms_resnet8", num_classes=3, in_channels=1).state_dict(), {})
    return [run.analysis("data")]


def read_facts(folder: Path, damaged: Path) -> object:
    return iso.load_run(folder / "run", compiled=False)(some_pixels(9, 11))


# Results of many runs, and of the bench ------------------------------------------------------------------------------


def make_plan(folder: Path) -> list[Path]:
    changes = ["model.T=1,2", "train.epochs=2"]
    save_plan(plan_sweep(folder, recipe="digits_sweep", topologies=["ms"], depths=[8], seeds=[0, 1], changes=changes))
    return [folder / "plan.json"]


def read_plan(folder: Path, damaged: Path) -> object:
    return collect(open_sweep(folder))


def make_bench(folder: Path) -> list[Path]:
    alone = row(Case("fire", "64 channels", peer="spikingjelly"), agree=False)
    alone["contestants"][2]["trial"] = [{"setting": {"compile": True}, "seconds": 0.5}, {"setting": {}}]
    write_json(folder / "rows.json", result([row(Case("infer", "ms_resnet8", options={"width": 8})), alone]))
    write_json(folder / "growth.json", growth_result())
    return [folder / "rows.json", folder / "growth.json"]


def read_bench(folder: Path, damaged: Path) -> object:
    return render_file(damaged)


SUBJECTS = {
    "pickles": Subject(make_pickles, in_instructions, read_cifar),
    "parquet": Subject(make_parquet, in_bytes, read_cifar),
    "images": Subject(make_images, in_bytes, read_one_image),
    "folders": Subject(make_folders, in_bytes, read_folders),
    "event set": Subject(make_event_set, in_bytes, read_event_set),
    "recordings": Subject(make_recordings, in_bytes, read_recording),
    "config": Subject(make_config, either(in_bytes, in_text, in_text), read_recipe),
    "overrides": Subject(make_overrides, either(in_bytes, in_text, in_text), read_overrides),
    "run folder": Subject(make_run, in_run, read_report),
    "checkpoint": Subject(make_checkpoint, either(in_bytes, under_its_hash, under_its_hash), read_checkpoint),
    "foreign weights": Subject(make_foreign, in_bytes, read_foreign),
    "pretrained": Subject(make_pretrained, either(in_value, in_both, in_both), read_pretrained),
    "facts of images": Subject(make_facts, in_value, read_facts),
    "plan of a sweep": Subject(make_plan, in_value, read_plan),
    "bench": Subject(make_bench, in_value, read_bench),
}
if find_spec("h5py") and find_spec("hdf5plugin"):
    SUBJECTS["hdf5"] = Subject(make_hdf5, in_bytes, read_recording)

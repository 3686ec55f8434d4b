"""Readers of weights that are given damaged files."""

import json
import warnings
from contextlib import suppress
from functools import reduce
from importlib.util import find_spec
from operator import getitem
from pathlib import Path
from random import Random

import torch

import isospike as iso
import report_runs
from fuzz_subject import Damage, Subject, either, in_bytes, in_value
from isospike.conversion.capture import as_program
from isospike.data import load_dataset
from isospike.data.digits import DigitsData
from isospike.errors import ShapeError
from isospike.processes import World
from isospike.run_folder import RunFolder
from isospike.train.build import load_trained
from isospike.train.display import SilentDisplay
from isospike.train.trainer import Trainer
from isospike.weights import load_tensors, save_tensors
from isospike.weights.foreign import read_state_dict
from mutations import damaged_value

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


def in_both(*keys: str) -> Damage:
    """What ``config.json`` says below ``keys``, and the file of the weights too: no longer two different saves."""

    def damage(path: Path, rng: Random) -> None:
        config, weights = json.loads(path.read_text()), path.with_name("model.safetensors")
        holder = reduce(getitem, keys[:-1], config)
        holder[keys[-1]] = damaged_value(holder[keys[-1]], rng)
        path.write_text(json.dumps(config))
        save_tensors(weights, load_tensors(weights)[0], {keys[0]: config[keys[0]]})

    return damage


def make_program(folder: Path) -> list[Path]:
    model = iso.create_model("ms_resnet8", width=4, num_classes=3, T=2, neuron="plif")
    iso.save_pretrained(as_program(model), folder)
    return [folder / "config.json"]


PARTS_OF_PROGRAM = [in_both("network", *keys) for keys in ((), ("program",), ("program", "modules"))]
PARTS_OF_PROGRAM += 3 * [in_both("network", "program", "operations")]


def read_pretrained(folder: Path, damaged: Path) -> object:
    return iso.from_pretrained(folder)


def read_program(folder: Path, damaged: Path) -> object:
    """What is read runs, unless heights and widths do not fit, which PyTorch says."""
    net = iso.from_pretrained(folder)
    with suppress(ShapeError, RuntimeError):
        net.step(torch.rand(1, 3, 8, 8))
    return net


def make_nir(folder: Path) -> list[Path]:
    iso.export_nir(iso.create_model("ms_resnet8", width=2), folder / "net.nir", size=8)
    return [folder / "net.nir"]


WEIGHTS = {
    "checkpoint": Subject(make_checkpoint, either(in_bytes, under_its_hash, under_its_hash), read_checkpoint),
    "foreign weights": Subject(make_foreign, in_bytes, read_foreign),
    "pretrained": Subject(make_pretrained, either(in_value, *2 * [in_both("options")]), read_pretrained),
    "program": Subject(make_program, either(in_value, *PARTS_OF_PROGRAM), read_program),
}
if find_spec("nir"):
    WEIGHTS["nir"] = Subject(make_nir, in_bytes, lambda folder, damaged: iso.from_nir(damaged))

"""Isometry on CIFAR-10 at initialisation and after a short training, beside the theory: docs/evidence/isometry.json.

    OMP_NUM_THREADS=1 python benchmarks/evidence.py --data-dir CIFAR10 --work FOLDER

Each network is a cell with a JSON file of its own in FOLDER: a second call goes on where the first one stopped, and
--draw only puts together what is there. All train by one recipe (below); 4 test images of 4 classes, 4 probes per unit,
T=4, batch statistics.
"""

import argparse
import json
import resource
import shutil
import time
from pathlib import Path

import torch

from common import header
from evidence_figures import draw, table
from isospike.analysis import gradient_norms, judge, log10_product, measure_isometry
from isospike.config import RunConfig
from isospike.data import Augment, AugmentSpec, load_dataset
from isospike.processes import World, open_world
from isospike.recipes import load_recipe
from isospike.run_folder import RunFolder, read_json, write_json
from isospike.train import Trainer
from isospike.train.build import build_model, load_trained
from isospike.train.display import SilentDisplay

FIGURES = Path(__file__).parent.parent / "docs" / "evidence"
STEPS, BATCH, IMAGES, PROBES, SEED = 60, 16, 4, 4, 0
TAILS = (0, 0.1, 0.5)
# What is compared: a topology, and where its branches' last norm starts.
VARIANTS = [
    ("plain", None),
    ("vanilla", None),
    ("sew", None),
    *(("ms", tail) for tail in TAILS),
    *((f"da_{order}", None) for order in ("cns", "ncs", "scn", "nsc")),
]
DEPTHS = (20, 56, 110)
CELLS = [(topology, tail, depth) for depth in DEPTHS for topology, tail in VARIANTS]
CELLS += [("ms", tail, 482) for tail in TAILS]


def configuration(topology, tail, depth, data_dir) -> RunConfig:
    """The recipe of the CIFAR-10 comparisons, cut to a few steps of a small batch at a constant rate."""
    changes = [
        f"model.name={topology}_resnet{depth}",
        "model.T=4",
        f"data.dir={data_dir}",
        f"train.batch_size={BATCH}",
        f"train.log_every={STEPS // 6}",
        "train.tensorboard=false",
        "schedule={kind: constant}",
        f"seed={SEED}",
    ]
    if tail is not None:
        changes.append(f"model.tail_init={tail}")
    return load_recipe("cifar10_vanilla_resnet20", changes)


def measured(model, images, labels):
    """Everything of one network at one moment; lists are by unit, from the stem to the head."""
    units = measure_isometry(model, images, probes=PROBES, seed=SEED)
    gradients = gradient_norms(model, images, labels, seed=SEED)
    product = log10_product(units)
    return {
        "verdict": judge(units, gradients).as_dict(),
        "log10_product": short(product.value),
        "log10_product_error": short(product.error),
        "log10_product_expected": short(expected_product(units)),
        "phi": [short(u.phi.value) for u in units],
        "phi_error": [short(u.phi.error) for u in units],
        "phi_expected": [u.expected and short(u.expected.phi) for u in units],
        "varphi": [short(u.varphi.value) for u in units],
        "varphi_expected": [u.expected and short(u.expected.varphi) for u in units],
        "gradient": [short(norm) for norm in gradients.inputs.values()],
        "projects": [u.index for u in units if u.projects],
        "loss": short(gradients.loss),
    }


def expected_product(units):
    """By the theory; None where it says nothing of a unit, or that nothing passes it."""
    logs = [torch.tensor(u.expected.phi).log10().item() for u in units if u.expected and u.expected.phi]
    return sum(logs) if len(logs) == len(units) else None


def short(value):
    return None if value is None or value in (float("inf"), float("-inf")) else float(f"{value:.4g}")


def one(topology, tail, depth, dataset, data_dir, work):
    """One cell, from its network at the start to the trained one."""
    config = configuration(topology, tail, depth, data_dir)
    chosen = torch.linspace(0, len(dataset.test) - 1, IMAGES).long()
    pixels = next(iter(dataset.test.batches([chosen], 0)))
    images = Augment(AugmentSpec(), dataset.mean, dataset.std, len(dataset.classes)).test(pixels)
    labels = dataset.test.labels[chosen]
    sizes = {"num_classes": len(dataset.classes), "in_channels": dataset.channels}
    began = time.process_time()
    found = {"topology": topology, "depth": depth, "tail_init": tail}
    found["start"] = measured(build_model(config, **sizes), images, labels)
    run = RunFolder(work / f"run-{topology}-{tail}-{depth}")
    shutil.rmtree(run.path, ignore_errors=True)
    run.create(config, {})
    Trainer(config, dataset, run, World(0, 1, torch.device("cpu")), SilentDisplay()).fit(max_steps=STEPS)
    found["training"] = [
        {key: short(r[key]) for key in ("step", "loss", "accuracy", "grad_norm")} for r in run.read_metrics()
    ]
    found["trained"] = measured(load_trained(run, config, **sizes, which="last"), images, labels)
    shutil.rmtree(run.path)
    found["cpu_seconds"] = short(time.process_time() - began)
    found["peak_memory_mb"] = short(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    return found


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--data-dir")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--draw", action="store_true", help="Measure nothing.")
    arguments = parser.parse_args()
    if not arguments.draw:
        collect(arguments.data_dir, arguments.work)
    result = assemble(arguments.work)
    (FIGURES / "isometry.md").write_text(table(result))
    draw(result, FIGURES)


def place(work, topology, tail, depth):
    return work / f"{topology}-{tail}-{depth}.json"


def collect(data_dir, work):
    """Measure every cell that has no file yet."""
    work.mkdir(parents=True, exist_ok=True)
    dataset = load_dataset(configuration("ms", None, 20, data_dir).data)
    write_json(work / "data.json", {"data": dataset.name, "note": dataset.note})
    with open_world("cpu"):
        for topology, tail, depth in CELLS:
            path = place(work, topology, tail, depth)
            if not path.is_file():
                write_json(path, one(topology, tail, depth, dataset, data_dir, work))
                print(path.stem, read_json(path)["cpu_seconds"], "s of one core", flush=True)


def assemble(work):
    """All cells there are in one file, a line to each."""
    paths = [place(work, topology, tail, depth) for topology, tail, depth in CELLS]
    cells = [read_json(path) for path in paths if path.is_file()]
    facts = {**read_json(work / "data.json"), "images": IMAGES, "probes": PROBES, "T": 4, "seed": SEED}
    training = {"steps": STEPS, "batch_size": BATCH, "lr": 0.1, "momentum": 0.9, "weight_decay": 1e-4}
    command = "OMP_NUM_THREADS=1 python benchmarks/evidence.py --data-dir CIFAR10 --work FOLDER"
    head = {"header": header(command), **facts, "training": training}
    lines = ",\n".join("  " + json.dumps(cell) for cell in cells)
    (FIGURES / "isometry.json").write_text(json.dumps(head)[:-1] + f',\n "cells": [\n{lines}\n ]}}\n')
    return {**head, "cells": cells}


if __name__ == "__main__":
    main()

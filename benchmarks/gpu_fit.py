"""For ``gpu.py``: the trainer itself, its steps launched kernel by kernel and as one CUDA graph."""

import tempfile
from pathlib import Path
from statistics import median

import torch

from gpu_models import waits
from gpu_ops import DEVICE
from isospike.config import read_config
from isospike.data import load_dataset
from isospike.errors import ConfigError
from isospike.processes import World
from isospike.run_folder import RunFolder
from isospike.train import Trainer
from isospike.train.display import SilentDisplay


def fit(name, T, batch, size, steps=30):
    """The same steps of a run both ways: images/s, what made the host wait, and how far the losses are apart."""
    found, losses = {}, {}
    for how, graph in (("launched", False), ("captured", True)):
        with tempfile.TemporaryDirectory() as folder:
            try:
                trainer = make(Path(folder) / "run", name, T, batch, size, graph)
            except ConfigError as error:
                found[how] = {"refused": str(error)}
                continue
            trainer.fit(max_steps=steps)
            records = [r for r in trainer.run.read_metrics() if r["kind"] == "step"]
            losses[how] = [r["loss"] for r in records]
            images = batch / median(b["seconds"] - a["seconds"] for a, b in zip(records[2:], records[3:], strict=False))
            inputs = trainer._augmented(next(trainer.train_loader.epoch(0)))
            found[how] = {
                "images_per_s": images,
                "host_waits": waits(lambda t=trainer, i=inputs: t.step(*i, stop=False)),
            }
    if len(losses) == 2:
        found["loss_error"] = max(abs(a - b) for a, b in zip(*losses.values(), strict=True))
    return found


def make(folder, name, T, batch, size, graph):
    """A trainer on synthetic images, in bfloat16."""
    values = {
        "recipe": "gpu",
        "model": {"name": name, "T": T},
        "data": {"kind": "synthetic", "classes": 10, "channels": 3, "size": size, "train": batch * 10, "test": batch},
        "optim": {"kind": "sgd", "lr": 0.01},
        "schedule": {"kind": "constant"},
        "train": {
            "epochs": 10,
            "batch_size": batch,
            "precision": "bf16",
            "watch_every": 0,
            "tensorboard": False,
            "cuda_graph": graph,
        },
    }
    config = read_config(values, "gpu")
    run = RunFolder(folder)
    run.create(config, {})
    return Trainer(config, load_dataset(config.data), run, World(0, 1, torch.device(DEVICE)), SilentDisplay())

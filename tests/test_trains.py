"""Every topology learns: two epochs on the handwritten digits, eight layers deep."""

from statistics import mean

import pytest
import torch

import isospike as iso
from isospike.data import load_dataset
from isospike.processes import World
from isospike.recipes import load_recipe
from isospike.run_folder import RunFolder
from isospike.train import Trainer
from isospike.train.display import SilentDisplay

SMALL = ["data.size=8", "train.epochs=2", "train.tensorboard=false"]


@pytest.mark.parametrize("topology", iso.TOPOLOGIES)
def test_every_topology_learns_the_digits(tmp_path, topology):
    """By the recipe of the digits; with seeds 0, 1, 2 the share of the loss that is left was never above 0.82."""
    config = load_recipe("digits_ms_resnet20", [f"model={{name: {topology}_resnet8, T: 2, width: 16}}", *SMALL])
    run = RunFolder(tmp_path / "run")
    run.create(config, {})
    Trainer(config, load_dataset(config.data), run, World(0, 1, torch.device("cpu")), SilentDisplay()).fit()
    losses = [record["loss"] for record in run.read_metrics() if record["kind"] == "step"]
    assert len(losses) == 90
    assert mean(losses[-10:]) < 0.9 * mean(losses[:10])

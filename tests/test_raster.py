"""The raster: spikes of a known neuron, its bounds, and what cannot be drawn."""

import math

import pytest
import torch
from torch import nn

import isospike as iso
from helpers import enliven
from isospike.analysis import record_raster
from isospike.errors import ConfigError


class Net(nn.Module):
    """Some neurons one after the other on the input itself."""

    def __init__(self, *neurons):
        super().__init__()
        self.neurons = nn.ModuleList(neurons)

    def forward(self, x):
        for neuron in self.neurons:
            x = neuron(x)[0]
        return x


def test_spikes_by_hand():
    """IF at threshold 1 on currents 1, 0.5, 0: always, every second step, never."""
    x = torch.tensor([1.0, 0.5, 0.0]).expand(4, 1, 3)
    raster = record_raster(Net(iso.IF()), x)
    (population,) = raster.populations
    assert population.counts == ((1, 0, 0), (1, 1, 0), (1, 0, 0), (1, 1, 0))
    assert (population.name, population.levels, population.neurons) == ("neurons.0", 1, (0, 1, 2))
    assert (raster.T, raster.steps, raster.of) == (4, 4, 1)


def test_counts_of_several_levels():
    raster = record_raster(Net(iso.ILIF(decay=0.0, levels=4)), torch.tensor([3.0, 9.0]).expand(1, 1, 2))
    assert raster.populations[0].counts == ((3, 4),)
    assert raster.populations[0].levels == 4


def test_it_keeps_no_more_than_it_was_asked_to_and_both_ends_of_the_network():
    net = Net(*(iso.IF() for _ in range(10)))
    raster = record_raster(net, torch.ones(6, 1, 50), populations=4, neurons=5, steps=3)
    assert [p.name for p in raster.populations] == [f"neurons.{n}" for n in (0, 3, 6, 9)]
    assert all(len(p.counts) == 3 and len(p.neurons) == 5 for p in raster.populations)
    assert (raster.T, raster.steps, raster.of) == (6, 3, 10)
    assert len(record_raster(net, torch.ones(6, 1, 50), populations=1).populations) == 1


def test_the_same_neurons_are_drawn_again_and_they_are_the_networks_own():
    model = enliven(iso.create_model("ms_resnet8", T=3)).eval()
    image = torch.randn(1, 3, 16, 16)
    raster = record_raster(model, image)
    assert raster == record_raster(model, image)
    assert raster != record_raster(model, image, seed=1)
    outputs = []
    handle = model.stages[1][0].branch.spike1.register_forward_hook(lambda m, i, out: outputs.append(out[0]))
    with torch.no_grad():
        model(image)
    handle.remove()
    spikes = torch.cat(outputs)[:, 0].flatten(1)
    (population,) = [p for p in raster.populations if p.name == "stages.1.0.branch.spike1"]
    assert spikes[:, list(population.neurons)].tolist() == [list(map(float, row)) for row in population.counts]
    assert not any(module._forward_hooks for module in model.modules())


def test_what_cannot_be_drawn_is_said():
    with pytest.raises(ConfigError, match="has no spiking neuron"):
        record_raster(nn.Sequential(nn.ReLU()), torch.ones(1, 1, 3))
    with pytest.raises(ConfigError, match="not finite"):
        record_raster(Net(iso.IF()), torch.full((1, 1, 3), math.nan))

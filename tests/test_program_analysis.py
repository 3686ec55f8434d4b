"""What is measured of a network with a row is measured of one that is nothing but its program."""

import pytest
import torch
from torch import nn

import isospike as iso
from ann_nets import CifarResNet, trained
from helpers import enliven
from isospike.conversion import capture
from isospike.conversion.capture import as_program
from isospike.errors import ConfigError
from isospike.inference.early_exit import EarlyExit
from isospike.models import ProgramNet
from isospike.residual import ResidualUnit
from isospike.train.plan import plan_training

IMAGES = torch.rand(3, 3, 16, 16)


@pytest.mark.parametrize("topology", iso.TOPOLOGIES)
def test_operations_and_edges_are_those_of_the_row(topology):
    torch.manual_seed(0)
    model = enliven(iso.create_model(f"{topology}_resnet8", T=2)).eval()
    net = as_program(model)
    expected, found = (iso.measure_energy(m, IMAGES).work for m in (model, net))
    assert (found.T, found.static, found.neurons, found.spikes) == (
        expected.T,
        expected.static,
        expected.neurons,
        expected.spikes,
    )
    for ours, theirs in zip(found.layers, expected.layers, strict=True):
        assert (ours.layer, ours.reads, ours.runs) == (theirs.layer, theirs.reads, theirs.runs)
        assert (ours.dense, ours.operations) == (theirs.dense, theirs.operations)
    assert iso.check_edges(net, IMAGES) == iso.check_edges(model, IMAGES)


def spiking():
    torch.manual_seed(0)
    text = capture(trained(CifarResNet(width=4)), IMAGES).as_json()
    for name, options in text["program"]["modules"].items():
        if options["kind"] == "relu":
            text["program"]["modules"][name] = {"kind": "if", "v_threshold": 0.25}
    net = ProgramNet.from_json(text | {"T": 4})
    trained_weights = capture(trained(CifarResNet(width=4)), IMAGES).state_dict()
    net.load_state_dict(trained_weights)
    return net.eval()


def test_the_stem_is_what_runs_before_time_begins():
    energy = iso.measure_energy(spiking(), IMAGES)
    groups = {layer.layer: layer.group for layer in energy.work.layers}
    assert [name for name, group in groups.items() if group == "stem"] == ["conv1"]
    assert {*groups.values()} == {"stem", "layer1", "layer2", "layer3", "linear"}
    (stem,) = (layer for layer in energy.work.layers if layer.group == "stem")
    assert (stem.runs, stem.macs) == (1, stem.inside)
    mj = energy.mj
    assert mj["stem_every_step"] - mj["stem_once"] == pytest.approx(3 * stem.macs * energy.table.mac_pj * 1e-9)


def test_it_is_watched_and_exits_early():
    net = spiking()
    with iso.watch(net) as seen:
        net(IMAGES)
    flow = seen.flow()
    assert (flow.T, flow.samples) == (4, 3)
    assert flow.spikes_per_neuron > 0
    compiled = net.compile_for_inference()
    decision = EarlyExit(compiled, float("inf"))(IMAGES)
    torch.testing.assert_close(decision.logits, compiled(IMAGES))
    assert decision.steps.tolist() == [4, 4, 4]


def test_gradients_of_weights_and_the_memory_of_a_step_are_those_of_the_row():
    torch.manual_seed(0)
    model = enliven(iso.create_model("ms_resnet8", T=2, num_classes=5))
    net, labels = as_program(model), torch.tensor([0, 4, 2])
    assert (net.num_classes, model.num_classes) == (5, 5)
    expected, found = (iso.gradient_norms(m, IMAGES, labels) for m in (model, net))
    assert found.loss == pytest.approx(expected.loss)
    assert found.weights == pytest.approx(expected.weights, rel=1e-4)
    assert found.inputs == {}  # a program has no units
    with pytest.raises(ConfigError, match="labels of this model run from 0 to 4, got 2 to 5"):
        iso.gradient_norms(net, IMAGES, labels + torch.tensor([2, 1, 0]))
    for memory in ("fast", "lean"):
        plans = [plan_training(m, batch=8, size=16, memory=memory) for m in (model, net)]
        assert plans[1].total == pytest.approx(plans[0].total, rel=0.02)
    net.head.fc = nn.Linear(net.head.fc.in_features, 7)
    assert net.num_classes == 7


@pytest.mark.parametrize("compiled", [False, True])
def test_a_network_without_a_row_predicts_images(compiled):
    torch.manual_seed(0)
    model = enliven(iso.create_model("ms_resnet8", T=2, num_classes=3)).eval()
    inputs = iso.Inputs(16, mean=(0.5,) * 3, std=(0.2,) * 3, classes=("a", "b", "c"))
    images = (IMAGES * 255).to(torch.uint8)
    expected, found = (iso.Predictor(m, inputs, compiled=compiled)(images) for m in (model, as_program(model)))
    torch.testing.assert_close(found.probabilities, expected.probabilities)
    with pytest.raises(ConfigError, match="the inputs name 3 classes, and the model tells 10 apart"):
        iso.Predictor(as_program(iso.create_model("ms_resnet8")), inputs)


class Own(ResidualUnit):
    """A unit of one's own, one of whose layers never runs."""

    def __init__(self):
        nn.Module.__init__(self)
        self.conv, self.unused = nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.Conv2d(3, 3, 1)
        self.out_channels = 32

    def forward(self, x, steps):
        return steps.through(self.conv, x)


def test_instruments_take_units_of_ones_own():
    torch.manual_seed(0)
    model = enliven(iso.create_model("ms_resnet14", T=2, num_classes=5))
    model.stages[1].add_module("0", Own())
    edges = {edge.layer: edge for edge in iso.check_edges(model, IMAGES)}
    assert "stages.1.0.conv" in edges
    assert "stages.1.0.unused" not in edges
    assert all(edge.kept for edge in edges.values())
    assert "stages.1.0.conv" in {layer.layer for layer in iso.measure_energy(model, IMAGES).work.layers}
    units = [f"stages.{stage}.{unit}" for stage in range(3) for unit in range(2)]
    assert [*iso.gradient_norms(model, IMAGES, torch.tensor([0, 4, 2])).inputs] == units
    measured = iso.measure_isometry(model, IMAGES)
    assert [unit.name for unit in measured] == units
    assert [unit.expected is None for unit in measured] == [unit.name == "stages.1.0" for unit in measured]
    own = measured[2]
    (alone,) = iso.analysis.measure_isometry_of({"own": model.stages[1][0]}, torch.zeros(2, 3, 16, 16, 16))
    assert own.phi.low <= alone.phi.value <= own.phi.high  # a convolution has one Jacobian everywhere

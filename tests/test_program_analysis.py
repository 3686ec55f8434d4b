"""What is measured of a network with a row is measured of one that is nothing but its program."""

import pytest
import torch

import isospike as iso
from ann_nets import CifarResNet, trained
from helpers import enliven
from isospike.conversion import capture
from isospike.conversion.capture import as_program
from isospike.inference.early_exit import EarlyExit
from isospike.models import ProgramNet

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

"""Networks that are nothing but a program, in folders."""

import json

import pytest
import torch

import isospike as iso
from ann_nets import CifarResNet, trained
from isospike.conversion import capture
from isospike.errors import CheckpointError, ConfigError
from isospike.models import ProgramNet

IMAGES = torch.randn(2, 3, 16, 16)


@pytest.fixture
def net():
    torch.manual_seed(0)
    return capture(trained(CifarResNet(width=4)), IMAGES)


@pytest.fixture
def folder(net, tmp_path):
    net.inputs = iso.Inputs(16, (0.5,) * 3, (0.2,) * 3)
    iso.save_pretrained(net, tmp_path / "net")
    return tmp_path / "net"


def change(folder, **network):
    path = folder / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | network))


def test_what_is_saved_comes_back(net, folder):
    again = iso.from_pretrained(folder)
    assert isinstance(again, ProgramNet)
    assert not again.training
    assert again.inputs == net.inputs
    assert torch.equal(again(IMAGES), net(IMAGES))
    assert iso.from_pretrained(folder, T=3).T == 3


@torch.no_grad()
def test_a_spiking_network_comes_back_with_its_streams(folder, tmp_path):
    net = iso.from_pretrained(folder)
    text = net.as_json()
    for name, options in text["program"]["modules"].items():
        if options["kind"] == "relu":
            text["program"]["modules"][name] = {"kind": "if", "v_threshold": 0.5}
    spiking = ProgramNet.from_json(text | {"T": 4})
    spiking.load_state_dict(net.state_dict())
    spiking.eval()
    iso.save_pretrained(spiking, tmp_path / "spiking")
    again = iso.from_pretrained(tmp_path / "spiking")
    assert torch.equal(again(IMAGES, per_step=True), spiking(IMAGES, per_step=True))
    state, logits = None, []
    for _ in range(4):
        step, state = again.step(IMAGES, state)
        logits.append(step)
    assert torch.equal(torch.stack(logits), spiking(IMAGES, per_step=True))
    torch.testing.assert_close(again.compile_for_inference()(IMAGES), spiking(IMAGES), rtol=1e-4, atol=1e-5)


def test_halves_of_different_saves_and_odd_options_are_refused(folder):
    with pytest.raises(ConfigError, match="of which T alone can be changed: leave num_classes out"):
        iso.from_pretrained(folder, num_classes=3)
    with pytest.raises(ConfigError, match="leave neuron out"):
        iso.from_pretrained(folder, neuron="if")
    change(folder, network={"T": 2})
    with pytest.raises(CheckpointError, match="are of different saves"):
        iso.from_pretrained(folder)


@pytest.mark.parametrize(
    ("network", "message"),
    [
        ({"T": 1}, "this is no network of a program: KeyError: 'program'"),
        ({"T": 1, "least_size": 1, "program": {"version": 9}}, "of version 9 cannot be read"),
        ([], "is no program"),
    ],
)
def test_a_damaged_network_is_one_sentence(folder, network, message):
    from isospike.weights.files import load_tensors, save_tensors

    tensors, _ = load_tensors(folder / "model.safetensors")
    save_tensors(folder / "model.safetensors", tensors, {"network": network})
    change(folder, network=network)
    with pytest.raises(CheckpointError, match=message) as refused:
        iso.from_pretrained(folder)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"T": 1.5}, "T of a network of a program must be a whole number from 1 on, got 1.5"),
        ({"least_size": "4"}, "least_size of a network of a program must be a whole number from 1 on, got '4'"),
        ({"units": {"relu": [0]}}, r"the units of 'relu' must be numbers above 0, got \[0\]"),
        ({"program": {"results": []}}, "this program gives 0 maps, and a network gives its logits"),
    ],
)
def test_counts_that_are_none_are_refused(net, change, message):
    text = net.as_json()
    program = {**text["program"], **change.pop("program", {})}
    with pytest.raises(ConfigError, match=message):
        ProgramNet.from_json({**text, "program": program, **change})


def test_layers_larger_than_the_weights_get_no_memory(net, tmp_path):
    name = next(name for name, module in net.named_modules() if isinstance(module, torch.nn.Linear))
    net.get_submodule(name).out_features = 2 * 10**9
    net.program.operations[-1].out.__dict__["channels"] = 2 * 10**9
    iso.save_pretrained(net, tmp_path / "net")
    with pytest.raises(CheckpointError, match=rf"'{name}.bias' is \[2000000000\] in the model"):
        iso.from_pretrained(tmp_path / "net")


@pytest.mark.parametrize("name", ["T", "forward", "memory", "program", ""])
def test_a_module_cannot_take_the_name_of_something_else(net, name):
    text = net.as_json()
    modules = text["program"]["modules"]
    modules[name] = modules.pop("conv1")
    text["program"]["operations"][0]["module"] = name
    with pytest.raises(ConfigError, match="this is no network of a program: KeyError"):
        ProgramNet.from_json(text)

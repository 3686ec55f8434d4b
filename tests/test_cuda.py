"""On a GPU: what a user does with a network gives there what it gives on the CPU, and the commands run."""

import copy
import json

import pytest
import torch

import isospike as iso
from ann_nets import CifarResNet, trained
from helpers import TINY, enliven
from isospike.conversion import METHODS, decisions_by_step
from isospike.run_folder import RunFolder
from test_cli import call

pytestmark = pytest.mark.cuda
DEVICE = "cuda"
NETWORKS = [name for name in iso.list_models() if name.endswith("_resnet8") and not name.startswith("ann_")]
IMAGES = torch.randn(40, 3, 16, 16, generator=torch.Generator().manual_seed(0)).double()


def distance(ours, truth):
    return ((ours.cpu() - truth).norm() / truth.norm()).item()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cuda") / "run"
    call("train", *TINY, "--device", DEVICE, "--out", folder)
    return folder


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_predicts_streams_and_compiles_as_on_the_cpu(name):
    """In float64, where rounding decides about no spike."""
    model = enliven(iso.create_model(name, T=3, num_classes=10)).double().eval()
    x = IMAGES[:4]
    truth = model(x, per_step=True).detach()
    here = copy.deepcopy(model).to(DEVICE)
    assert distance(here(x.to(DEVICE), per_step=True), truth) < 1e-9
    assert distance(here.compile_for_inference()(x.to(DEVICE), per_step=True), truth) < 1e-9
    state, logits = None, []
    for _ in range(3):
        now, state = here.step(x.to(DEVICE), state)
        logits.append(now)
    assert distance(torch.stack(logits), truth) < 1e-9


@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_are_those_of_the_cpu(name):
    model = enliven(iso.create_model(name, T=3, num_classes=10)).double().train()
    grads = []
    for device in ("cpu", DEVICE):
        here, x = copy.deepcopy(model).to(device), IMAGES[:4].to(device)
        torch.nn.functional.cross_entropy(here(x), torch.arange(4, device=device)).backward()
        grads.append(torch.cat([p.grad.flatten().cpu() for p in here.parameters()]))
    assert distance(grads[1], grads[0]) < 1e-9


@pytest.mark.parametrize("method", [name for name in METHODS if name != "qcfs"])
def test_an_ann_is_converted_on_its_device(method):
    ann = trained(CifarResNet()).double()
    options = {"T": 8, "quantile": 0.99} if method in ("s_resnet", "percentile") else {"T": 8}
    expected = iso.convert(ann, IMAGES, method=method, **options)
    found = iso.convert(copy.deepcopy(ann).to(DEVICE), IMAGES.to(DEVICE), method=method, **options)
    assert {p.device.type for p in found.parameters()} == {DEVICE}
    assert found.units.keys() == expected.units.keys()
    for name, unit in expected.units.items():
        torch.testing.assert_close(torch.tensor(found.units[name]), torch.tensor(unit), rtol=1e-6, atol=0)
    assert torch.equal(decisions_by_step(found, IMAGES.to(DEVICE), 8).cpu(), decisions_by_step(expected, IMAGES, 8))


def test_a_run_is_trained_resumed_and_read(run):
    call("train", "--resume", run, "--device", DEVICE, "--set", "train.epochs=3")
    for command in ("eval", "energy", "analyze"):
        call(command, run, "--device", DEVICE)
    assert json.loads((run / "analysis" / "test.json").read_text())["accuracy"] > 0.2


def test_a_run_in_bfloat16_has_the_losses_of_its_steps_as_one_graph(tmp_path):
    losses = []
    for graph in ("false", "true"):
        precision = ["--set", "train.precision=bf16", "--set", f"train.cuda_graph={graph}"]
        call("train", *TINY, *precision, "--device", DEVICE, "--out", tmp_path / graph)
        records = RunFolder(tmp_path / graph).read_metrics()
        losses.append(torch.tensor([record["loss"] for record in records if record["kind"] == "step"]))
    assert losses[0][-1] < losses[0][0]
    torch.testing.assert_close(*losses, rtol=1e-2, atol=0)

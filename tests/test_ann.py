"""Starting from a ResNet that does not spike."""

import json

import pytest
import torch
from torch import nn

import isospike as iso
from helpers import enliven
from isospike.errors import CheckpointError
from published_nets import conv_norm, trained

SMALL = {"width": 4, "num_classes": 5}
BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}


class ANNUnit(nn.Module):
    """Named as in torchvision; never run."""

    def __init__(self, before, width, stride, bottleneck):
        super().__init__()
        after = width * 4 if bottleneck else width
        shapes = [(before, width, 3), (width, width, 3)]
        if bottleneck:
            shapes = [(before, width, 1), (width, width, 3), (width, after, 1)]
        for n, shape in enumerate(shapes, 1):
            conv, norm = conv_norm(*shape)
            setattr(self, f"conv{n}", conv)
            setattr(self, f"bn{n}", norm)
        if stride != 1 or before != after:
            self.downsample = nn.Sequential(*conv_norm(before, after, 1))


class ANN(nn.Module):
    def __init__(self, depth, width=4, classes=5):
        super().__init__()
        self.conv1, self.bn1 = conv_norm(3, width, 7)
        before, expansion = width, 4 if depth >= 50 else 1
        for stage, count in enumerate(BLOCKS[depth]):
            units = []
            for unit in range(count):
                units.append(ANNUnit(before, width * 2**stage, 2 if stage and not unit else 1, depth >= 50))
                before = width * 2**stage * expansion
            setattr(self, f"layer{stage + 1}", nn.Sequential(*units))
        self.fc = nn.Linear(before, classes)


@pytest.fixture
def ann():
    torch.manual_seed(0)
    return trained(ANN(18)).float()


@pytest.mark.parametrize("depth", [18, 34, 50])
def test_weights_land_in_their_places(tmp_path, depth):
    ann = trained(ANN(depth)).float()
    model = iso.create_model(f"sew_resnet{depth}", **SMALL)
    torch.save(ann.state_dict(), tmp_path / "resnet.pth")
    iso.load_ann_resnet(model, tmp_path / "resnet.pth")
    pairs = {
        model.stem.conv.weight: ann.conv1.weight,
        model.stem.norm.running_mean: ann.bn1.running_mean,
        model.stages[0][1].branch.conv1.weight: ann.layer1[1].conv1.weight,
        model.stages[3][1].branch.norm2.weight: ann.layer4[1].bn2.weight,
        model.stages[3][1].branch.norm2.running_var: ann.layer4[1].bn2.running_var,
        model.stages[1][0].skip.conv.weight: ann.layer2[0].downsample[0].weight,
        model.stages[1][0].skip.norm.bias: ann.layer2[0].downsample[1].bias,
        model.head.fc.weight: ann.fc.weight,
    }
    assert all(torch.equal(ours, theirs) for ours, theirs in pairs.items())
    own = sum(t.sum(dtype=torch.float64) for t in model.state_dict().values())
    whole = sum(t.sum(dtype=torch.float64) for n, t in ann.state_dict().items() if not n.endswith("tracked"))
    torch.testing.assert_close(own, whole)


@pytest.mark.parametrize("name", ["vanilla_resnet18", "sew_resnet18"])
def test_every_layer_computes_what_the_ann_computes(ann, name):
    """A norm with a constant factor multiplies it again with what it was divided by."""
    model = iso.create_model(name, **SMALL).eval()
    iso.load_ann_resnet(model, ann.state_dict())
    x = torch.randn(2, 8, 6, 6)
    for ours, theirs in (
        (model.stages[1][0].branch.norm1, ann.layer2[0].bn1),
        (model.stages[1][0].branch.norm2, ann.layer2[0].bn2),
        (model.stages[1][0].skip.norm, ann.layer2[0].downsample[1]),
    ):
        torch.testing.assert_close(ours(x), theirs(x))


def test_the_model_and_its_folder_say_where_the_weights_came_from(tmp_path, ann):
    torch.save({"model": ann.state_dict()}, tmp_path / "resnet18.pth")
    model = iso.create_model("sew_resnet18", **SMALL)
    iso.load_ann_resnet(model, tmp_path / "resnet18.pth")
    model.reset_classifier(3)
    iso.save_pretrained(model, tmp_path / "model")
    said = json.loads((tmp_path / "model" / "config.json").read_text())["initialised_from"]
    assert said == "the ANN ResNet in resnet18.pth"
    again = iso.from_pretrained(tmp_path / "model")
    assert again.initialised_from == said
    iso.save_pretrained(again, tmp_path / "again")
    assert iso.from_pretrained(tmp_path / "again").initialised_from == said
    iso.load_ann_resnet(again, trained(ANN(18, classes=3)).state_dict())
    assert again.initialised_from == "the state dict of an ANN ResNet"


def test_what_neurons_learn_stays_as_it_is(ann):
    model = iso.create_model("sew_resnet18", neuron={"kind": "plif", "tau": 3.0}, **SMALL)
    before = model.stages[0][0].branch.spike1.w.item()
    iso.load_ann_resnet(model, ann.state_dict())
    assert model.stages[0][0].branch.spike1.w.item() == before != 0
    assert torch.equal(model.head.fc.bias, ann.fc.bias)


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("sew_resnet34", {}, r"'stages.0.2.branch.conv1.weight' is not in the state dict"),
        ("sew_resnet18", {"stem": "three_conv"}, r"'stages.0.0.skip.conv.weight' is not in"),
        ("sew_resnet18", {"width": 8}, r"is \[8.* in the model and \[4.* in the state dict"),
        ("sew_resnet18", {"num_classes": 4}, r"'head.fc.\w+' is \[4.* in the model and \[5"),
        ("sew_resnet18", {"stem": "cifar"}, r"'stem.conv.weight' is \[4, 3, 3, 3\] in the model and \[4, 3, 7, 7\]"),
        ("ms_resnet18", {}, r"'stages.0.0.skip.conv.weight' is not in"),
        ("plain_resnet18", {}, r"'stages.1.0.skip.conv.weight' is only in"),
    ],
)
def test_a_model_of_another_build_is_refused_and_left_as_it_was(ann, name, options, says):
    model = enliven(iso.create_model(name, **{**SMALL, **options}))
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    with pytest.raises(CheckpointError, match=says):
        iso.load_ann_resnet(model, ann.state_dict())
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
    assert getattr(model, "initialised_from", None) is None


def test_other_state_dicts_are_refused(ann, tmp_path):
    model = iso.create_model("sew_resnet18", **SMALL)
    with pytest.raises(
        CheckpointError, match=r"'layer1.0.se.weight' in the state dict is no name that a ResNet of tor"
    ):
        iso.load_ann_resnet(model, {**ann.state_dict(), "layer1.0.se.weight": torch.ones(1)})
    with pytest.raises(CheckpointError, match="the state dict holds no state dict"):
        iso.load_ann_resnet(model, {})
    torch.save(ann, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match="nothing foreign is unpickled"):
        iso.load_ann_resnet(model, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match="does not exist"):
        iso.load_ann_resnet(model, str(tmp_path / "y.pth"))

"""What cannot be captured is refused at once, call by call, with its line and what to do instead."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ann_nets import TorchvisionResNet, trained
from isospike.conversion import Uncapturable, capture
from isospike.errors import ConfigError

IMAGES = torch.randn(2, 3, 12, 12)


class Net(nn.Module):
    def __init__(self, end, layer=None):
        super().__init__()
        self.conv, self.norm, self.fc = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Linear(4, 2)
        self.layer, self.end = layer, end

    def forward(self, x):
        return self.fc(self.end(self, self.norm(self.conv(x))).mean((2, 3)))


CALLS = {
    "sigmoid": (lambda m, x: x * torch.sigmoid(x), None, "gates multiply maps"),
    "SiLU": (lambda m, x: m.layer(x), nn.SiLU(), "a neuron stands for ReLU: train with ReLU in its place"),
    "ReLU6": (lambda m, x: m.layer(x), nn.ReLU6(), "largest values the conversion cuts by itself"),
    "gelu": (lambda m, x: F.gelu(x), None, "a neuron stands for ReLU"),
    "GroupNorm": (lambda m, x: m.layer(x), nn.GroupNorm(2, 4), "only a norm with running statistics"),
    "ConvTranspose2d": (lambda m, x: m.layer(x), nn.ConvTranspose2d(4, 4, 3), "is made of convolutions"),
    "Conv2d": (
        lambda m, x: m.layer(x),
        nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"),
        "padding_mode='reflect' is no padding with zeros",
    ),
    "cat": (lambda m, x: torch.cat([x, x], 1)[:, :4], None, "it concatenates maps: add them"),
    "clamp": (lambda m, x: x.clamp(0, 6), None, "only a clamp at 0 from below is a rectifier"),
    "mul": (lambda m, x: x * m.norm.weight.view(1, -1, 1, 1), None, "a map and a parameter"),
    "add": (lambda m, x: x + 1.0, None, "make it the bias of the layer before it"),
    "dropout": (lambda m, x: F.dropout(x, 0.0, True), None, "write training=self.training"),
    "getitem": (lambda m, x: x[:, :, 1::2, ::2], None, r"x\[:, :, ::2, ::2\], may be"),
    "pad": (lambda m, x: F.pad(x, (1, 1, 1, 1)), None, "give the convolution or pool behind it the padding"),
    "AdaptiveAvgPool2d": (lambda m, x: m.layer(x), nn.AdaptiveAvgPool2d(5), "which do not divide"),
    "reshape": (lambda m, x: x.reshape(-1, 4, 6, 6), None, r"a map may be flattened to \[B, C \* H \* W\]"),
}


@pytest.mark.parametrize("call", CALLS)
def test_a_call_is_refused_with_its_line_and_advice(call):
    end, layer, advice = CALLS[call]
    with pytest.raises(Uncapturable, match=advice) as refused:
        capture(trained(Net(end, layer)), IMAGES)
    first = refused.value.problems[0]
    assert call in first.call
    assert first.place.startswith("test_capture_refusals.py, line ")


def test_every_call_is_listed_at_once():
    def end(m, x):
        x = torch.tanh(x)
        x = F.gelu(m.conv(x[:, :3]))
        return torch.softmax(x, 1)

    with pytest.raises(Uncapturable, match="its 4 calls that no spiking network makes") as refused:
        capture(trained(Net(end)), IMAGES)
    problems = refused.value.problems
    assert [p.call for p in problems] == ["tanh", "getitem", "gelu", "softmax"]
    assert [p.code for p in problems] == [
        "x = torch.tanh(x)",
        *["x = F.gelu(m.conv(x[:, :3]))"] * 2,
        "return torch.softmax(x, 1)",
    ]
    assert len(str(refused.value).splitlines()) == 5


def drop_statistics(module):
    module.bn1 = nn.BatchNorm2d(8, track_running_stats=False)
    module.eval()


def reset_statistics(module):
    module.layer1[0].bn1.reset_running_stats()


def put_nan(module):
    with torch.no_grad():
        module.fc.weight[0, 0] = float("nan")


def train_one(module):
    module.layer1[0].bn1.train()


def hook(module):
    module.conv1.register_forward_hook(lambda m, a, out: out * 2)


DAMAGE = {
    "statistics": (drop_statistics, "the batch norm 'bn1' has no running statistics"),
    "no batch": (reset_statistics, r"the batch norm 'layer1.0.bn1' has the statistics that it began with"),
    "nan": (put_nan, "'fc.weight' of the ANN holds numbers that are not finite"),
    "training": (lambda module: module.train(), "it is in training mode: call ann.eval"),
    "training in part": (train_one, "its 'layer1.0.bn1' is in training mode"),
    "hook": (hook, "gives other logits, by up to .*: a hook"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_an_ann_that_is_not_ready_is_refused(name):
    damage, message = DAMAGE[name]
    module = trained(TorchvisionResNet())
    damage(module)
    with pytest.raises(ConfigError, match=message):
        capture(module, IMAGES)


def test_numbers_that_decide_are_refused_with_both_reasons():
    def end(m, x):
        return x if x.sum() > 0 else -x

    with pytest.raises(ConfigError, match=r"torch.fx: .*; torch.export: .* and not on the numbers in a map"):
        capture(trained(Net(end)), IMAGES)


def test_other_outputs_and_examples_are_refused():
    with pytest.raises(
        ConfigError, match=r"gives logits \[B, classes\], and this Conv2d gives a tensor \[2, 4, 10, 10\]"
    ):
        capture(nn.Conv2d(3, 4, 3).eval(), IMAGES)
    with pytest.raises(ConfigError, match=r"captured on images \[B, C, H, W\], got \[3, 12, 12\]"):
        capture(trained(Net(lambda m, x: x)), IMAGES[0])
    with pytest.raises(ConfigError, match="this ReLU has no weights"):
        capture(nn.ReLU().eval(), IMAGES)

"""ANNs as others write them become programs of ours that do the same, to rounding."""

import operator
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import isospike as iso
from ann_nets import VGG, CifarResNet, TimmResNet, TorchvisionResNet, trained
from helpers import enliven
from isospike.conversion import capture
from isospike.conversion.exported import export
from isospike.graph import Between, Call, Conv
from isospike.layers import Conv2d, PaddedShortcut
from isospike.models import ProgramNet

SIZE = 12
CAPTURE = sys.modules["isospike.conversion.capture"]  # the room has a function of this name


class Net(nn.Module):
    """Two convolutions on the way to ``end``, which gets the module and the map of 4 channels, 6x6 pixels."""

    def __init__(self, end, **layers) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, 2, 1)
        self.conv, self.norm, self.act = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU()
        self.in_place, self.pool = nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1)
        for name, layer in layers.items():
            self.add_module(name, layer)
        self.end = end

    def forward(self, x):
        return self.end(self, F.relu(self.stem(x)))


def images(count=3, size=SIZE):
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(0)).double()


def assert_captured(module, x=None):
    """To 1e-12, on other images than it was captured on, and more of them; returns the network."""
    module, x = trained(module).double(), images() if x is None else x
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    net = capture(module, x[:1])
    with torch.no_grad():
        expected = module(x.clone())
        torch.testing.assert_close(net(x), expected, rtol=0, atol=1e-12 * max(1, expected.abs().max().item()))
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
    assert (net.T, net.training) == (1, False)
    return net


def pooled(m, x):
    """The end of a network that only needs one."""
    return m.pool(x).flatten(1)


def relu_after_in_place(m, x):
    """What is read of ``x`` behind the rectifier has been rectified."""
    current = m.conv(x)
    out = m.in_place(current)
    return pooled(m, m.norm(out) + current)


def in_place_behind_identity(m, x):
    current = m.conv(x)
    out = F.relu(F.dropout(current, 0.5, m.training), inplace=True)
    return pooled(m, out + current)


def in_place_sum(m, x):
    out = m.conv(x)
    other = out
    out += x
    return pooled(m, m.act(out) + other)


def method_in_place(m, x):
    current = m.conv(x)
    current.relu_()
    current.add_(x)
    return pooled(m, current)


def option_a(m, x):
    return pooled(m, m.down(x) + F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2), "constant", 0))


def option_a_by_pool_and_zeros(m, x):
    short = F.avg_pool2d(x, 1, 2)
    return pooled(m, m.down(x) + torch.cat((short, short.mul(0)), 1))


def option_a_by_new_zeros(m, x):
    short = x[..., ::2, ::2]
    zeros = torch.zeros(x.shape[0], 4, *short.shape[2:], dtype=x.dtype)
    return pooled(m, m.down(x) + torch.cat([zeros, short], dim=1))


def chosen_by_shape(m, x):
    if x.shape[1] != 4 or x.dim() != 4 or len(x) < 1:
        raise ValueError("shape")
    return pooled(m, x if x.size(2) == x.size(3) else m.conv(x))


DOWN = {"down": lambda: nn.Conv2d(4, 8, 3, 2, 1)}
PATTERNS = {
    "F.relu": (lambda m, x: pooled(m, F.relu(m.conv(x))), {}),
    "torch.relu": (lambda m, x: pooled(m, torch.relu(m.conv(x))), {}),
    "method relu": (lambda m, x: pooled(m, m.conv(x).relu()), {}),
    "clamp": (lambda m, x: pooled(m, m.conv(x).clamp(min=0) + torch.clamp(m.conv(x), 0)), {}),
    "one ReLU many times": (lambda m, x: pooled(m, m.act(m.conv(m.act(m.conv(m.act(m.conv(x))))))), {}),
    "in place, then read": (relu_after_in_place, {}),
    "in place behind an identity": (in_place_behind_identity, {}),
    "methods in place": (method_in_place, {}),
    "+": (lambda m, x: pooled(m, m.conv(x) + x), {}),
    "+=": (in_place_sum, {}),
    "torch.add": (lambda m, x: pooled(m, torch.add(m.conv(x), x)), {}),
    ".add": (lambda m, x: pooled(m, m.conv(x).add(x, alpha=2)), {}),
    "-": (lambda m, x: pooled(m, m.conv(x) - x), {}),
    "operator.add": (lambda m, x: pooled(m, operator.add(m.conv(x), x)), {}),
    "scaled": (lambda m, x: pooled(m, 0.5 * m.conv(x) + x / 4), {}),
    "norm before the sum": (lambda m, x: pooled(m, m.act(m.norm(m.conv(x)) + x)), {}),
    "norm after the sum": (lambda m, x: pooled(m, m.act(m.norm(m.conv(x) + x))), {}),
    "norm of its own": (
        lambda m, x: pooled(m, m.plain(m.conv(x))),
        {"plain": lambda: nn.BatchNorm2d(4, affine=False, eps=1e-3)},
    ),
    "bias": (lambda m, x: pooled(m, m.other(x)), {"other": lambda: nn.Conv2d(4, 4, 3, bias=True)}),
    "same": (lambda m, x: pooled(m, m.other(x)), {"other": lambda: nn.Conv2d(4, 4, (3, 5), padding="same")}),
    "groups": (lambda m, x: pooled(m, m.other(x)), {"other": lambda: nn.Conv2d(4, 8, 3, groups=4, dilation=2)}),
    "F.conv2d": (lambda m, x: pooled(m, F.conv2d(x, m.conv.weight, padding=1)), {}),
    "computed weights": (lambda m, x: pooled(m, F.conv2d(x, m.conv.weight * 2 - 1, m.conv.bias)), {}),
    "max pool": (lambda m, x: pooled(m, m.other(x)), {"other": lambda: nn.MaxPool2d(3, 2, 1, ceil_mode=True)}),
    "F.max_pool2d": (lambda m, x: pooled(m, F.max_pool2d(x, (2, 3))), {}),
    "average pool": (
        lambda m, x: pooled(m, m.other(x)),
        {"other": lambda: nn.AvgPool2d(3, 2, 1, count_include_pad=False)},
    ),
    "adaptive pool": (lambda m, x: pooled(m, F.adaptive_avg_pool2d(x, (3, 2))), {}),
    "adaptive pool of these pixels": (lambda m, x: pooled(m, F.adaptive_avg_pool2d(x, 6)), {}),
    "global max": (lambda m, x: F.adaptive_max_pool2d(x, 1).flatten(1), {}),
    "AdaptiveAvgPool2d": (lambda m, x: torch.flatten(m.pool(x), 1), {}),
    "mean((2, 3))": (lambda m, x: x.mean((2, 3)), {}),
    "mean by name": (lambda m, x: x.mean(dim=[-1, -2], keepdim=True).squeeze(-1).squeeze(-1), {}),
    "torch.mean": (lambda m, x: torch.mean(x, (2, 3)), {}),
    "mean of a mean": (lambda m, x: x.mean(3).mean(2), {}),
    "mean of a row": (lambda m, x: x.view(x.size(0), x.size(1), -1).mean(-1), {}),
    "avg_pool2d(size)": (lambda m, x: F.avg_pool2d(x, x.size()[3]).view(x.size(0), -1), {}),
    "avg_pool2d(shape)": (lambda m, x: F.avg_pool2d(x, x.shape[2:])[:, :, 0, 0], {}),
    "AvgPool2d": (lambda m, x: m.whole(x).squeeze(), {"whole": lambda: nn.AvgPool2d(6)}),
    "1x1 convolution behind the pool": (
        lambda m, x: m.fc(m.act(m.pool(x))).flatten(1),
        {"fc": lambda: nn.Conv2d(4, 7, 1)},
    ),
    "flatten": (lambda m, x: m.fc(x.flatten(1)), {"fc": lambda: nn.Linear(144, 5)}),
    "view": (lambda m, x: m.fc(x.view(-1, 144)), {"fc": lambda: nn.Linear(144, 5)}),
    "reshape": (lambda m, x: m.fc(x.reshape(len(x), -1)), {"fc": lambda: nn.Linear(144, 5, bias=False)}),
    "nn.Flatten": (lambda m, x: m.fc(m.flat(x)), {"flat": nn.Flatten, "fc": lambda: nn.Linear(144, 5)}),
    "dropout": (lambda m, x: pooled(m, m.drop(m.drop2(x))), {"drop": nn.Dropout, "drop2": nn.Dropout2d}),
    "option A": (option_a, DOWN),
    "option A by a pool and zeros": (option_a_by_pool_and_zeros, DOWN),
    "option A by new zeros": (option_a_by_new_zeros, DOWN),
    "chosen by shape": (chosen_by_shape, {}),
    "contiguous": (lambda m, x: pooled(m, m.conv(x.contiguous().clone()).detach()), {}),
    "names of ours": (
        lambda m, x: pooled(m, m.program(m.memory(x))),
        {"program": nn.ReLU, "memory": lambda: nn.Conv2d(4, 4, 1)},
    ),
}


def net(name):
    torch.manual_seed(0)
    end, layers = PATTERNS[name]
    return Net(end, **{layer: make() for layer, make in layers.items()})


@pytest.mark.parametrize("name", PATTERNS)
def test_a_pattern_traced(name, monkeypatch):
    monkeypatch.setattr(CAPTURE, "export", None)
    assert_captured(net(name))


@pytest.mark.parametrize("name", PATTERNS)
def test_a_pattern_exported(name, monkeypatch):
    def untraceable(*_):
        raise TypeError("not this time")

    monkeypatch.setattr(CAPTURE, "trace", untraceable)
    assert_captured(net(name))


@pytest.mark.parametrize("kind", [TorchvisionResNet, TimmResNet, CifarResNet, VGG])
def test_whole_networks(kind):
    torch.manual_seed(0)
    assert_captured(kind(), images(size=16))


def test_what_cannot_be_traced_is_exported():
    """``torch.fx`` does not loop over a map."""

    def loop(m, x):
        total = m.conv(x)
        for _ in range(int(torch.tensor(x.shape[1:]).max()) // 3):
            total = total + x
        return pooled(m, total)

    def check(m, x):
        assert isinstance(x, torch.Tensor)
        return pooled(m, m.conv(x))

    def take(m, x):
        if not isinstance(x, torch.Tensor):
            raise TypeError("a tensor, please")
        return pooled(m, m.conv(x))

    for forward in (loop, check, take):
        assert_captured(Net(forward))


def test_what_goes_wrong_in_a_trace_of_ours_is_not_taken_for_what_cannot_be_traced(monkeypatch):
    monkeypatch.setattr("isospike.conversion.trace._source", lambda: None.file)
    with pytest.raises(AttributeError, match="has no attribute 'file'"):
        capture(trained(VGG()), images(size=16))


def test_the_program_of_a_block_by_hand():
    program = assert_captured(CifarResNet(), images(size=16)).program
    first, second, third = program.operations[3:10], program.operations[10:18], program.operations[18:26]
    assert [type(op) for op in first] == [Conv, Between, Between, Conv, Between, Between, Between]
    for block in (second, third):
        assert [type(op) for op in block] == [Conv, Between, Between, Conv, Between, Call, Between, Between]
        shortcut = block[5].module
        assert isinstance(shortcut, PaddedShortcut)
        width = shortcut.in_channels
        assert (shortcut.stride, shortcut.before, shortcut.behind) == (2, width // 2, width // 2)
        *_, total, neuron = block
        assert {total.x, total.y} == {block[4].out, block[5].out}
        assert isinstance(neuron.neuron, iso.ReLU)


def test_names_and_weights_are_those_of_the_ann():
    module = trained(TorchvisionResNet()).double()
    net = capture(module, images(size=16))
    theirs, ours = module.state_dict(), net.state_dict()
    assert ours.keys() == {name for name in theirs if not name.endswith("num_batches_tracked")}
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_layer_that_is_called_twice_is_one_layer():
    """And every call of a rectifier has neurons of its own."""
    captured = assert_captured(net("one ReLU many times"))
    convs = [op.module for op in captured.program.operations if isinstance(op, Conv)]
    neurons = [op.neuron for op in captured.program.operations if isinstance(op, Between)]
    assert len(convs) == 4
    assert len({*convs}) == 2
    assert len({*neurons}) == len(neurons) == 4


def test_precision_and_other_sizes():
    module = trained(TorchvisionResNet())
    net = capture(module, images(size=16).float())
    x = images(size=25).float()
    assert net(x).dtype == torch.float32
    torch.testing.assert_close(net(x), module(x))
    assert net.least_size == 8  # the last map has 2x2 of 16x16 pixels


@pytest.mark.parametrize("name", [f"{topology}_resnet8" for topology in iso.TOPOLOGIES])
def test_our_own_twins(name):
    model = enliven(iso.create_ann_twin(name, num_classes=5)).double().eval()
    net, x = capture(model, images(size=16)), images(size=16)
    assert isinstance(net, ProgramNet)
    assert torch.equal(net(x), model(x))
    assert not {*map(id, net.parameters())} & {*map(id, model.parameters())}
    again = capture(net, x)
    assert torch.equal(again(x), net(x))


def test_a_captured_network_compiles_and_trains():
    net = capture(trained(CifarResNet()), images(size=16).float())
    x = images(size=16).float()
    torch.testing.assert_close(net.compile_for_inference()(x), net(x), rtol=1e-4, atol=1e-5)
    assert all(isinstance(op.module, Conv2d) for op in net.program.operations if isinstance(op, Conv))
    net.train()(x).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


def test_the_example_and_the_module_stay_as_they_are():
    module, x = trained(TorchvisionResNet()), images(size=16).float()
    before, attributes = x.clone(), {*vars(module)}
    capture(module, x)
    assert torch.equal(x, before)
    assert {*vars(module)} == attributes


def test_export_gives_shapes_lines_and_weights():
    graph = export(trained(VGG()), torch.randn(2, 3, 16, 16), TypeError())
    (conv, *_) = (node for node in graph.nodes if node.op == "call_function")
    assert conv.meta["shape"] == (2, 8, 16, 16)
    assert conv.meta["source"][0].endswith("ann_nets.py")
    assert conv.args[1].meta["tensor"].shape == (8, 3, 3, 3)

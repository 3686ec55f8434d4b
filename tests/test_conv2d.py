"""Convolutions: gradients that are right on every machine, and never asked of the code of PyTorch that is not."""

import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

import isospike as iso
from helpers import enliven
from isospike.layers import Conv2d
from isospike.ops.conv2d import geometry_of, gradients
from isospike.residual import TOPOLOGIES

LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


def true_gradients(x, weight, g, rows, columns):
    """Those of a 1x1 convolution, as matrix products over the pixels that it reads."""
    read = x[:, :, ::rows, ::columns].double()
    d_x = torch.zeros_like(x, dtype=torch.float64)
    d_x[:, :, ::rows, ::columns] = torch.einsum("nohw,oc->nchw", g.double(), weight[:, :, 0, 0].double())
    return d_x, torch.einsum("nohw,nchw->oc", g.double(), read)[..., None, None], g.double().sum((0, 2, 3))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("stride", [2, 3, (1, 2)])
@pytest.mark.parametrize("channels", [1, 2, 3, 4, 7, 8, 12])
@pytest.mark.parametrize("size", [8, 7])
def test_a_strided_1x1_convolution_has_its_gradients(channels, stride, size, layout):
    conv = Conv2d(channels, 5, 1, stride).to(memory_format=LAYOUTS[layout])
    x = torch.randn(2, channels, size, size).to(memory_format=LAYOUTS[layout]).requires_grad_()
    y = conv(x)
    torch.testing.assert_close(y, F.conv2d(x, conv.weight, conv.bias, stride))
    g = torch.randn_like(y)
    true = true_gradients(x.detach(), conv.weight.detach(), g, *conv.stride)
    ours = torch.autograd.grad(y, [x, conv.weight, conv.bias], g)
    fused = gradients(g, x.detach(), conv.weight.detach(), geometry_of(conv), [True] * 3)
    for of_the_layer, of_the_pass, exact in zip(ours, fused, true, strict=True):
        torch.testing.assert_close(of_the_layer, exact.float())
        torch.testing.assert_close(of_the_pass, exact.float())


def test_gradients_that_nobody_needs_are_not_made():
    conv, x, g = Conv2d(3, 4, 1, 2), torch.randn(1, 3, 4, 4), torch.randn(1, 4, 2, 2)
    made = gradients(g, x, conv.weight, geometry_of(conv), [False, True, False])
    assert [gradient is not None for gradient in made] == [False, True, False]


@pytest.mark.parametrize("options", [{"padding": 1}, {"groups": 2}, {"padding_mode": "circular", "padding": 1}])
def test_other_convolutions_are_those_of_pytorch(options):
    conv, x = Conv2d(4, 6, 3, 2, **options), torch.randn(2, 4, 7, 7)
    assert torch.equal(conv(x), torch.nn.Conv2d.forward(conv, x))


class StridedPointwiseGradients(TorchDispatchMode):
    """Counts the gradients of strided 1x1 convolutions that PyTorch is asked for."""

    def __init__(self):
        super().__init__()
        self.asked = self.convolutions = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.convolution_backward.default:
            self.convolutions += 1
            _, _, weight, _, stride, *_ = args
            self.asked += weight.shape[2:] == (1, 1) and max(stride) > 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_no_network_asks_pytorch_for_the_gradient_of_a_strided_1x1_convolution(topology, each_backend):
    model = enliven(iso.create_model(f"{topology}_resnet8", width=4, T=2))
    x = torch.randn(2, 3, 16, 16, requires_grad=True)
    with StridedPointwiseGradients() as seen:
        model(x).square().sum().backward()
    assert seen.convolutions > 0
    assert seen.asked == 0


def test_many_gradients_leave_the_heap_whole():
    program = """
import torch
from isospike.layers import Conv2d
conv = Conv2d(4, 8, 1, stride=2, bias=False).to(memory_format=torch.channels_last)
for _ in range(300):
    x = torch.randn(8, 4, 16, 16).to(memory_format=torch.channels_last).requires_grad_()
    y = conv(x)
    y.backward(torch.randn_like(y))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr

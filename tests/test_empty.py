"""Where a size is 0 the library gives what PyTorch gives, or says what is missing."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from helpers import make_neuron
from isospike.errors import ShapeError
from isospike.ops import FireRule, Firing, norm_fire, packed_conv, use_backend
from isospike.ops.cpu import norm_fire as cpu_norm_fire
from isospike.ops.cpu.packing import packed, packed_bytes, unpacked
from isospike.ops.cpu.pointwise import CompiledPass, can_run
from isospike.ops.cpu.spike_conv import spike_conv, spike_weight, weight_gradient
from isospike.ops.cpu.winograd import winograd_conv, winograd_input_gradient, winograd_weight
from isospike.ops.pointwise import Pointwise, Span
from isospike.surrogates import Rectangle

pytestmark = pytest.mark.compiled
# One size of [B or N, C, H, W] is 0, or all are.
EMPTY = [(0, 16, 4, 4), (2, 0, 4, 4), (2, 16, 0, 4), (2, 16, 4, 0), (0, 0, 0, 0)]
NEURONS = [
    make_neuron("lif", detach_reset=True, surrogate=Rectangle()),  # surrogate masks
    make_neuron("plif"),  # gradients of its coefficients
    make_neuron("ilif"),
]
empty = pytest.mark.parametrize("shape", EMPTY, ids=str)


def maps(*shape):
    return torch.zeros(shape).contiguous(memory_format=torch.channels_last)


@empty
@pytest.mark.parametrize("neuron", NEURONS, ids=str)
def test_neurons(shape, neuron):
    found = []
    for name in ("cpu", "reference"):
        x, v = torch.zeros(3, *shape).requires_grad_(), torch.zeros(neuron.rule.state_shape(shape)).requires_grad_()
        with use_backend(name):
            outputs = neuron(x, v)
            grads = torch.autograd.grad(sum(t.sum() for t in outputs), [x, v, *neuron.parameters()])
        found.append([*outputs, *grads])
    for ours, true in zip(*found, strict=True):
        assert torch.equal(ours, true)


@empty
def test_a_norm_needs_values(shape):
    x = torch.zeros(3, *shape)
    weight = torch.ones(shape[1])
    with pytest.raises(ShapeError, match=r"batch statistics need two values per channel, got .* \[3, "):
        norm_fire(x, weight, weight, 1e-5)


@empty
@pytest.mark.parametrize("firing", [None, *(Firing(*n.coefficients(), n.rule) for n in NEURONS)], ids=str)
def test_statistics_of_nothing_end_no_process(shape, firing):
    x, weight = torch.zeros(3, *shape).requires_grad_(), torch.ones(shape[1]).requires_grad_()
    done = cpu_norm_fire.norm_fire(x, weight, weight, 1e-5, skip=x, firing=firing, added=x, keep=True)
    assert done.u.shape == x.shape
    assert done.mean.isnan().all()
    (d_x, d_weight) = torch.autograd.grad(done.u.sum(), [x, weight])
    assert (d_x.shape, d_weight.tolist()) == (x.shape, [0.0] * shape[1])


@empty
def test_packing(shape):
    x = maps(*shape)
    for spikes in (packed(x), packed_bytes(x.to(torch.uint8))):
        assert (spikes.number, spikes.counts) == (0, None)
        assert torch.equal(unpacked(spikes.kept, x.shape, x.stride()), x)


@empty
@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("filters", [16, 0])
@pytest.mark.usefixtures("each_isa")
def test_convolutions_of_spikes(shape, kernel, stride, filters):
    (N, C, H, W), weight, bias = shape, torch.zeros(filters, shape[1], kernel, kernel), torch.ones(filters)
    spikes, size = packed(maps(*shape)), (-(-H // stride), -(-W // stride))
    assert torch.equal(spike_conv(spikes, spike_weight(weight, bias, stride)), torch.ones(N, filters, *size))
    found = weight_gradient(spikes, weight, torch.ones(N, filters, *size), stride)
    assert torch.equal(found, torch.zeros(filters, C, kernel, kernel))


@empty
@pytest.mark.parametrize("filters", [16, 0])
@pytest.mark.usefixtures("each_isa")
def test_dense_convolutions(shape, filters):
    (N, _, H, W), weight = shape, torch.zeros(filters, shape[1], 3, 3)
    found = winograd_conv(maps(*shape), winograd_weight(weight, torch.ones(filters)))
    assert torch.equal(found, torch.ones(N, filters, H, W))
    assert torch.equal(winograd_input_gradient(maps(N, filters, H, W), weight), torch.zeros(shape))


@empty
@pytest.mark.parametrize("spec", [Pointwise(), Pointwise(firing=Firing(0.5, 1.0, FireRule()), integer=True)], ids=str)
def test_what_stands_between_convolutions_at_inference(shape, spec):
    N, C, *size = shape
    assert can_run(spec, C) == (C > 0)
    if C:
        found = CompiledPass(spec, C)(Span(3, N, stateful=True), maps(3 * N, C, *size))
        assert found.out.shape == (3 * N, C, *size)
        assert found.v is None or found.v.shape == (N, C, *size)


@pytest.mark.parametrize("stride", [1, 2])
def test_a_layer_on_an_empty_batch(stride):
    conv = nn.Conv2d(16, 16, 3, stride, 1)
    x = maps(0, 16, 8, 8).requires_grad_()
    y = packed_conv(conv, x)
    assert torch.equal(y, F.conv2d(x, conv.weight, conv.bias, stride, 1))
    d_x, d_weight = torch.autograd.grad(y.sum(), [x, conv.weight])
    assert d_x.shape == x.shape
    assert not d_weight.any()

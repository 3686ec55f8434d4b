"""Convolutions of spikes in 8 bits: exact sums of integers, for the maps that the row promises to be integers."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import isospike as iso
from helpers import enliven
from isospike.errors import ConfigError
from isospike.graph import Conv, Value, promised_domains
from isospike.inference import compiled
from isospike.inference.convolution import LARGEST_INTEGER, folded, integer_convolution, quantised
from isospike.layers import BatchNorm
from isospike.residual import REAL, Domain

MAPS = Value(0, 0, Domain(LARGEST_INTEGER)), Value(1, 0, REAL)
GEOMETRIES = [(3, 1), (3, 2), (1, 1), (1, 2), (7, 2)]


def conv_of(in_channels, out_channels, kernel=3, stride=1, bias=False):
    layer = nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, bias=bias)
    norm = BatchNorm(out_channels)
    for values in (norm.weight, norm.bias, norm.running_mean):
        nn.init.normal_(values)
    return Conv(*MAPS, layer, norm)


@pytest.mark.parametrize(("kernel", "stride"), GEOMETRIES)
@pytest.mark.parametrize(("channels", "largest"), [(16, 1), (3, 4), (64, LARGEST_INTEGER), (130, 5)])
def test_the_sum_of_integers_is_exact(kernel, stride, channels, largest):
    """Against a convolution in float64; scaled once, shifted once, in float32."""
    conv = conv_of(channels, 8, kernel, stride, bias=True)
    weight, bias = folded(conv)
    integers, scale = quantised(weight)
    x = torch.randint(0, largest + 1, (2, channels, 9, 9), dtype=torch.uint8)
    sums = F.conv2d(x.double(), integers.double(), None, stride, kernel // 2)
    assert sums.abs().max() < 2**24
    expected = sums.float() * scale.view(-1, 1, 1) + bias.view(-1, 1, 1)
    assert torch.equal(integer_convolution(conv)(x, None), expected)


def test_the_largest_sums_do_not_saturate():
    """All weights 127, all inputs at the bound: two products still fit the 16 bits that older machines add them in."""
    assert 2 * 127 * LARGEST_INTEGER <= 2**15 - 1 < 2 * 127 * (LARGEST_INTEGER + 1)
    layer = nn.Conv2d(64, 64, 1, bias=False)
    nn.init.constant_(layer.weight, 127.0)
    x = torch.full((1, 64, 4, 4), LARGEST_INTEGER, dtype=torch.uint8)
    out = integer_convolution(Conv(*MAPS, layer))(x, None)
    assert torch.equal(out, torch.full((1, 64, 4, 4), 127.0 * 64 * LARGEST_INTEGER))


def test_weights_are_rounded_to_the_nearest_step_of_their_channel():
    weight = torch.randn(5, 3, 3, 3)
    weight[2] = 0
    integers, scale = quantised(weight)
    assert integers.abs().amax((1, 2, 3)).tolist() == [127, 127, 0, 127, 127]
    error = (integers * scale.view(-1, 1, 1, 1) - weight).abs()
    assert (error <= scale.view(-1, 1, 1, 1) / 2 * 1.0001).all()


def integer_weights(model):
    """Give every convolution weights of integers up to 127 times a power of two, which 8 bits hold exactly."""
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            with torch.no_grad():
                values = torch.randint(-127, 128, layer.weight.shape)
                values[:, 0, 0, 0] = 127
                layer.weight.copy_(values * 2.0**-9)
    return model


@pytest.mark.parametrize("topology", iso.TOPOLOGIES)
def test_where_weights_need_no_rounding_both_precisions_agree(topology):
    """Norms of powers of two keep it so: what is left is the order of float sums, which a spike may hang on."""
    model = iso.create_model(f"{topology}_resnet8", T=2).eval()
    integer_weights(model)
    for name, buffer in model.named_buffers():
        if name.endswith("running_var"):
            buffer.fill_(1 - 1e-5)
    for norm in model.modules():
        if isinstance(norm, iso.layers.BatchNorm):
            nn.init.constant_(norm.weight, 1 / norm.scale)
    x = (torch.rand(4, 3, 32, 32) * 64).round() / 64
    truth = model.compile_for_inference()(x)
    logits = model.compile_for_inference("int8")(x)
    assert truth.abs().max() > 0
    torch.testing.assert_close(logits, truth, rtol=1e-4, atol=1e-4 * truth.abs().max().item())


@pytest.mark.compiled
@pytest.mark.parametrize("topology", iso.TOPOLOGIES)
def test_integers_are_bytes_spikes_bits_and_everything_else_float(topology, monkeypatch):
    """Every convolution of spikes reads bits, unless another layer reads them too; none packs them again."""
    asked = {}

    def noted(make):
        def made(conv):
            convolve, weight = make(conv), conv.layer.weight.sum().item()

            def run(x, onto):
                asked[weight] = x.shape[1] < conv.layer.in_channels
                assert x.dtype == torch.uint8
                return convolve(x, onto)

            return run

        return made

    for name in ("integer_convolution", "integer_spike_convolution"):
        monkeypatch.setattr(compiled, name, noted(getattr(compiled, name)))
    model = enliven(iso.create_model(f"{topology}_resnet14", T=2)).eval()
    model.compile_for_inference("int8")(torch.rand(2, 3, 32, 32))
    promised = {layer: of.largest for layer, of in promised_domains(model).items() if isinstance(layer, nn.Conv2d)}
    fires = {layer.weight.sum().item(): most == 1 for layer, most in promised.items() if most is not None}
    assert set(asked) == set(fires)
    assert all(fires[weight] for weight, bits in asked.items() if bits)
    if topology == "vanilla":  # its projections read spikes of 16 and 32 channels, which are too few for a 1x1 of ours
        fires = {weight: fired and asked[weight] for weight, fired in fires.items()}
        assert sum(fires.values()) == 10
    assert asked == fires


def test_counts_beyond_the_bound_stay_float():
    neuron = {"kind": "ilif", "levels": 100}
    model = enliven(iso.create_model("da_cns_resnet14", neuron=neuron, T=2)).eval()
    x = torch.rand(2, 3, 32, 32)
    truth = model.compile_for_inference()(x)
    torch.testing.assert_close(model.compile_for_inference("int8")(x), truth, rtol=0.2, atol=0.2 * truth.abs().max())


def test_a_pytorch_without_onednn_is_refused_in_a_sentence(monkeypatch):
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    model = iso.create_model("ms_resnet8")
    with pytest.raises(ConfigError, match="needs a PyTorch with oneDNN, which this one lacks: use 'float32'"):
        model.compile_for_inference("int8")
    x = torch.rand(1, 3, 32, 32)
    torch.testing.assert_close(model.eval().compile_for_inference()(x), model(x))

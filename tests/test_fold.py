import pytest
import torch

import isospike as iso
from helpers import enliven, make_neuron
from isospike.errors import ConfigError
from isospike.layers import BatchNorm, FoldedNeuron

RESETS = [{}, {"v_reset": -0.25}, {"reset": "subtract"}]


def trained_norm(channels):
    norm = enliven(BatchNorm(channels, scale=0.5)).double().eval()
    with torch.no_grad():
        norm.weight[::2] *= -1  # every other channel fires below its threshold
    return norm


@pytest.mark.parametrize("kind", ["if", "lif", "plif"])
@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("reset", RESETS, ids=str)
def test_not_one_spike_differs(kind, strict, reset):
    norm, neuron = trained_norm(8), make_neuron(kind, v_threshold=0.5, strict=strict, **reset).double()
    x = torch.randn(5, 4, 8, 6, 6, dtype=torch.float64)
    folded = FoldedNeuron(norm, neuron)
    with torch.no_grad():
        s, v = neuron(norm(x.flatten(0, 1)).unflatten(0, (5, 4)))
    ours, state = folded(x)
    assert 0.1 < s.mean() < 0.9
    assert torch.equal(ours, s)
    torch.testing.assert_close(state * folded.slope, v)
    halves = [folded(x[:2]), None]
    halves[1] = folded(x[2:], halves[0][1])
    assert torch.equal(torch.cat([half[0] for half in halves]), s)


def test_the_current_to_fire_is_that_before_the_norm():
    folded = FoldedNeuron(trained_norm(4), make_neuron("lif", strict=True).double())
    current = folded.current_to_fire().expand(6, 1, 4, 1, 1)
    assert (folded(current)[0] == 1).all()


def test_a_network_with_its_first_norm_in_every_unit_folded_says_the_same():
    """Units of norm, spike, conv: no convolution stands before the norm that reads the stream."""
    model = enliven(iso.create_model("da_nsc_resnet8", T=3)).double().eval()
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        expected = model(x)
        for chain in [*(unit.branch for unit in model.units()), model.closing]:
            norm, spike = list(chain.named_children())[:2]
            setattr(chain, spike[0], FoldedNeuron(norm[1], spike[1]))
            setattr(chain, norm[0], torch.nn.Identity())
        torch.testing.assert_close(model(x), expected)


def test_what_cannot_be_folded_is_refused():
    norm = BatchNorm(4)
    with pytest.raises(ConfigError, match="with one threshold, not into MLF"):
        FoldedNeuron(norm, make_neuron("mlf"))
    with pytest.raises(ConfigError, match="with one threshold, not into ILIF"):
        FoldedNeuron(norm, make_neuron("ilif"))
    with pytest.raises(ConfigError, match="weight is 0 in channel 0"):
        FoldedNeuron(BatchNorm(4, weight=0), make_neuron("if"))

"""The presets of every row, as its paper or code has them; changing one is a breaking change."""

import pytest

import isospike as iso
from isospike.layers import BatchNorm
from isospike.neurons import SpikingNeuron

RECTANGLE, ARCTAN = iso.Rectangle(1.0), iso.Arctan(2.0)
HALF = 0.5 / 2**0.5

# thresholds, decay, strict, detached reset, surrogate; weight and factor of stem norm, branch norms, projection norm; T
PRESETS = {
    "plain": ((0.5,), 0.25, True, False, RECTANGLE, [(1, 0.5)] * 3, None, 6),
    "vanilla": ((0.5,), 0.25, True, False, RECTANGLE, [(1, 0.5), (1, 0.5), (1, HALF)], (1, HALF), 6),
    "sew": ((1.0,), 1.0, False, True, ARCTAN, [(1, 1)] * 3, (1, 1), 4),
    "ms": ((0.5,), 0.25, True, True, RECTANGLE, [(0.5, 1), (0.5, 1), (0, 1)], (0.5, 1), 6),
    "ds": ((0.6, 1.6, 2.6), 0.25, True, False, RECTANGLE, [(1, 0.6)] * 3, (1, 0.6), 4),
    "da_cns": ((0.5,), 0.25, True, True, RECTANGLE, [(0.5, 1)] * 3, (0.5, 1), 4),
    "da_ncs": ((0.5,), 0.25, True, True, RECTANGLE, [(0.5, 1)] * 3, (0.5, 1), 4),
    "da_scn": ((0.5,), 0.25, True, True, RECTANGLE, [(0.5, 1), (0.5, 1), (0.1, 1)], (0.5, 1), 4),
    "da_nsc": ((0.5,), 0.25, True, True, RECTANGLE, [(0.5, 1)] * 3, None, 4),
}
# variance of the weights of a 3x3 convolution, times the number of its inputs: c_in = c_out / 2 where it changes shape
GAIN = {"pytorch": 1 / 3, "kaiming_fan_in": 2, "kaiming_fan_out": 1}
STARTS = {"ds": "kaiming_fan_in", "sew": "kaiming_fan_out"} | dict.fromkeys(
    ("da_cns", "da_ncs", "da_scn", "da_nsc"), "kaiming_fan_out"
)

EPS = {"ds": (0, 1e-5)}  # added to the variance, and to its root; all others (1e-5, 0)


def start(norm):
    return norm.weight[0].item(), norm.scale


@pytest.mark.parametrize("name", iso.TOPOLOGIES)
def test_presets_reach_the_modules(name):
    thresholds, decay, strict, detach, surrogate, norms, projection, T = PRESETS[name]
    model = iso.create_model(f"{name}_resnet8")
    neurons = [m for m in model.modules() if isinstance(m, SpikingNeuron)]
    for neuron in neurons:
        rule = neuron.rule
        assert (rule.v_threshold, *rule.higher) == pytest.approx(thresholds)
        assert (rule.strict, rule.detach_reset, rule.surrogate) == (strict, detach, surrogate)
        assert (rule.reset, rule.v_reset, neuron.coefficients()) == ("to_value", 0, (decay, 1))
    unit = model.stages[1][0]
    branch = [m for m in unit.branch.children() if isinstance(m, BatchNorm)]
    assert [start(n) for n in (model.stem.norm, *branch)] == [pytest.approx(n) for n in norms]
    found = [start(m) for m in unit.skip.children() if isinstance(m, BatchNorm)]
    assert found == ([] if projection is None else [pytest.approx(projection)])
    assert model.T == T
    eps = {(m.eps, m.root_eps) for m in model.modules() if isinstance(m, BatchNorm)}
    assert eps == {EPS.get(name, (1e-5, 0))}


@pytest.mark.parametrize("name", iso.TOPOLOGIES)
def test_weights_start_as_the_source_has_them(name):
    model = iso.create_model(f"{name}_resnet8", width=32, num_classes=512)
    how = STARTS.get(name, "pytorch")
    conv = model.stages[2][0].branch.conv1.weight
    assert conv.var().item() * conv[0].numel() == pytest.approx(GAIN[how], rel=0.05)
    fc = model.head.fc.weight
    gain = 2 if how == "kaiming_fan_in" else 1 / 3
    assert fc.var().item() * fc[0].numel() == pytest.approx(gain, rel=0.05)

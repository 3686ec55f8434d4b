"""Firing, surrogate masks and streams: known input, the references of the MLF paper's spec, both modes alike."""

import json
import math

import pytest
import torch
from torch import nn

import isospike as iso
from helpers import SPIKING, dyadic, enliven, make_neuron
from isospike.analysis.flow import potentials
from isospike.errors import ConfigError
from isospike.ops import leaky_fire

IMAGES = torch.randn(4, 3, 32, 32)
COMBINED = [
    (name, combine)
    for name in ("ms_resnet8", "ds_resnet8", "sew_resnet14", "da_scn_resnet14")
    for combine in (None, "rsqrt")
    if combine is None or iso.TOPOLOGIES[name.split("_resnet")[0]].can_be_identity
]


class Net(nn.Module):
    """One neuron on the input itself."""

    def __init__(self, neuron, stepwise=False):
        super().__init__()
        self.spike, self.stepwise = neuron, stepwise

    def forward(self, x):
        if not self.stepwise:
            return self.spike(x)[0]
        v, spikes = None, []
        for x_t in x.split(1):
            s, v = self.spike(x_t, v)
            spikes.append(s)
        return torch.cat(spikes)


def flow_of(neuron, *currents, stepwise=False, **options):
    model = Net(neuron, stepwise)
    with iso.watch(model, **options) as seen:
        for x in currents:
            model(x)
    return seen.flow()


def currents(*samples):
    """``[T, B, neurons]`` from lists ``[B][neurons][T]``."""
    return torch.tensor(samples).permute(2, 0, 1).contiguous()


@pytest.mark.parametrize("stepwise", [False, True])
def test_rates_by_hand(stepwise):
    """IF at threshold 1: neuron 0 fires at both steps, 1 at the second in one sample, 2 never, 3 always in one."""
    neuron = iso.IF(surrogate={"kind": "rectangle", "width": 1.0})
    x = currents(
        [[1.0, 1.0], [0.5, 0.5], [-1.0, 0.5], [2.0, 2.0]],
        [[1.0, 1.0], [0.0, 0.0], [0.25, 0.0], [0.0, 0.0]],
    )
    flow = flow_of(neuron, x, stepwise=stepwise)
    (found,) = flow.neurons
    assert (flow.samples, flow.T, found.neurons) == (2, 2, 4)
    assert found.rate == (3 / 8, 4 / 8)
    assert found.mean_rate == 7 / 16
    assert found.histogram == (9 / 16, 7 / 16)
    assert (found.silent, found.saturated) == (1 / 4, 1 / 4)
    assert flow.spikes_per_neuron == 7 / 8
    # h of the neurons: (1, 1) (.5, 1) (-1, -.5) (2, 2) and (1, 1) (0, 0) (.25, .25) (0, 0); open: |h - 1| < 1/2
    assert found.open == (2 / 8, 3 / 8)
    assert found.dormant == (6 / 8, 5 / 8)
    assert found.dormant_throughout == 5 / 8


@pytest.mark.parametrize("stepwise", [False, True])
def test_levels_by_hand(stepwise):
    """Thresholds 1 and 2, open within 1/2: a potential of 1.75 is open for the second level alone."""
    neuron = iso.MLF(levels=2, decay=0.0, v_threshold=1.0, v_step=1.0, surrogate={"kind": "rectangle", "width": 1.0})
    x = currents([[1.75, 5.0], [0.0, 0.0], [2.0, 2.0]])
    (found,) = flow_of(neuron, x, stepwise=stepwise).neurons
    assert found.rate == (3 / 3, 4 / 3)
    assert found.histogram == (2 / 6, 1 / 6, 3 / 6)
    assert (found.silent, found.saturated) == (1 / 3, 1 / 3)
    assert found.open == (2 / 6, 1 / 6)
    assert found.dormant == (1 / 3, 2 / 3)
    assert found.dormant_throughout == 1 / 3


def test_integers_are_open_between_nothing_and_the_most():
    x = currents([[-0.25, 0.0, 3.0, 4.0, 4.5]])[:, :, None]
    (found,) = flow_of(iso.ILIF(decay=0.0, levels=4), x.transpose(0, 2)).neurons
    assert found.rate == (11 / 5,)
    assert found.histogram == (2 / 5, 0, 0, 1 / 5, 2 / 5)
    assert found.open == (3 / 5,)


@pytest.mark.parametrize(
    ("std", "levels", "per_step", "throughout"),
    [(0.6, 1, 0.616, 0.170), (0.6, 2, 0.586, 0.146), (0.6, 3, 0.585, 0.146), (1.0, 1, 0.690, 0.241),
     (1.0, 2, 0.584, 0.136), (1.0, 3, 0.567, 0.126), (0.849, 1, 0.660, None), (0.849, 3, 0.572, None)],
)  # fmt: skip
def test_dormant_shares_of_gaussian_currents(std, levels, per_step, throughout):
    """Both definitions, against shares that were derived for these neurons at T = 4."""
    x = torch.randn(4, 100, 4000) * std
    neuron = iso.MLF(levels=levels, surrogate={"kind": "rectangle", "width": 1.0})
    (found,) = flow_of(neuron, x).neurons
    assert sum(found.dormant) / 4 == pytest.approx(per_step, abs=0.002)
    if throughout is not None:
        assert found.dormant_throughout == pytest.approx(throughout, abs=0.002)


@pytest.mark.parametrize("kind", SPIKING)
def test_potentials_and_slopes_are_those_of_the_recurrence(kind):
    """Fired and reset they give its spikes and its last potential; the slope is the gradient it takes."""
    neuron = make_neuron(kind)
    x = dyadic(3, 2, 50, high=4.0)
    v = dyadic(*neuron.rule.state_shape((2, 50)))
    s, last = neuron(x, v)
    found = list(potentials(neuron, x, v))
    for h, s_t in zip(found, s, strict=True):
        assert torch.equal(neuron.rule.count(neuron.rule.fire(h)), s_t)
    torch.testing.assert_close(neuron.rule.reset_after(h, neuron.rule.fire(h)), last)
    rest = list(potentials(neuron, x))
    assert torch.equal(neuron.rule.count(neuron.rule.fire(rest[0])), leaky_fire(
        x[:1], decay=neuron.coefficients()[0], gain=neuron.coefficients()[1], rule=neuron.rule)[0][0])  # fmt: skip
    h = found[0].detach().requires_grad_()
    (gradient,) = torch.autograd.grad(neuron.rule.fire(h).sum(), h)
    assert torch.equal(gradient, neuron.rule.slope(h))


@pytest.mark.parametrize(("name", "combine"), COMBINED)
def test_both_modes_and_parts_of_a_batch_are_alike(name, combine):
    model = enliven(iso.create_model(name, T=3, combine=combine)).double().eval()
    flows = []
    for parts, folded in (([IMAGES], False), ([IMAGES], True), (IMAGES.split([3, 1]), False)):
        with iso.watch(model) as seen, torch.no_grad():
            for part in parts:
                model.training = folded
                model(part.double())
        flows.append(seen.flow())
    model.training = False
    assert flows[0].neurons == flows[1].neurons == flows[2].neurons
    names = [n for n, m in model.named_modules() if any(m is unit for unit in model.units())]
    for flow in flows:
        assert (flow.samples, flow.T) == (4, 3)
        assert [unit.name for unit in flow.units] == names
        for unit, other in zip(flow.units, flows[0].units, strict=True):
            for part in ("mean", "variance", "largest"):
                assert getattr(unit, part) == pytest.approx(getattr(other, part), rel=1e-6)


def test_streams_by_hand():
    """Stored once, over two batches of other sizes, beside what was summed as they went by."""
    model = enliven(iso.create_model("sew_resnet8", T=2)).eval()
    outputs = []
    model.stages[1][0].register_forward_hook(lambda m, i, out: outputs.append(out))
    with iso.watch(model) as seen, torch.no_grad():
        for part in IMAGES.split([3, 1]):
            model(part)
    (unit,) = [u for u in seen.flow().units if u.name == "stages.1.0"]
    for step in range(2):
        x = torch.cat([outputs[step][0], outputs[2 + step][0]]).double()
        assert unit.mean[step] == pytest.approx(float(x.mean()))
        assert unit.variance[step] == pytest.approx(float(x.var(correction=0)))
        assert unit.largest[step] == float(x.max())


def test_a_stream_of_steps_is_seen_like_the_clip():
    model = enliven(iso.create_model("ms_resnet8")).eval()
    clip = torch.randn(3, 2, 3, 32, 32)
    flows = []
    for streamed in (False, True):
        with iso.watch(model) as seen, torch.no_grad():
            state = None
            for frame in clip if streamed else []:
                _, state = model.step(frame, state)
            if not streamed:
                model(clip)
        flows.append(seen.flow())
    assert flows[0] == flows[1]
    assert (flows[1].samples, flows[1].T) == (2, 3)


def test_watching_changes_nothing():
    """The same gradients, and no hook is left."""
    model = iso.create_model("ms_resnet8", combine="rsqrt")
    gradients = []
    for watched in (False, True):
        model.zero_grad()
        if watched:
            with iso.watch(model):
                model(IMAGES).sum().backward()
        else:
            model(IMAGES).sum().backward()
        gradients.append([p.grad.clone() for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_without_gates_and_as_json():
    flow = flow_of(iso.IF(), torch.ones(2, 1, 3), potentials=False)
    assert flow.neurons[0].open is flow.neurons[0].dormant is flow.neurons[0].dormant_throughout is None
    saved = json.loads(json.dumps(flow.as_dict()))
    assert saved["neurons"][0]["rate"] == [1.0, 1.0]
    assert saved["spikes_per_neuron"] == 2.0
    with iso.watch(model := enliven(iso.create_model("ms_resnet8", T=1))) as seen:
        model(IMAGES)
    assert all(map(math.isfinite, seen.flow().units[-1].variance))


def test_what_cannot_be_watched_is_said():
    with pytest.raises(ConfigError, match="this Sequential has no spiking neuron"):
        iso.watch(nn.Sequential(nn.ReLU()))
    model = enliven(iso.create_model("ms_resnet8")).eval()
    with iso.watch(model) as seen:
        with pytest.raises(ConfigError, match="nothing was watched"):
            seen.flow()
        with pytest.raises(ConfigError, match="holds numbers that are not finite"):
            model(IMAGES * math.nan)
        model(IMAGES)
        with pytest.raises(ConfigError, match="one watch takes images of one size"):
            model(IMAGES[..., :16, :16])
    with torch.no_grad():
        model.stages[0][0].branch.conv2.weight.fill_(math.inf)
    with iso.watch(model) as seen:
        model(IMAGES)
    with pytest.raises(ConfigError, match=r"what 'stages.0.0' puts out is not finite"):
        seen.flow()


def test_watches_within_each_other_see_what_one_alone_sees():
    model = enliven(iso.create_model("ms_resnet14", T=2, width=8, combine="rsqrt")).eval()
    images = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        with iso.watch(model) as alone:
            model(images)
        with iso.watch(model) as outer:
            with iso.watch(model) as inner:
                model(images)
            model(images)
        first, second = iso.watch(model), iso.watch(model)
        first.__enter__()
        second.__enter__()
        first.__exit__(None, None, None)
        model(images)
        second.__exit__(None, None, None)
        model(images)
    assert inner.flow() == second.flow() == alone.flow()
    assert [unit.mean for unit in outer.flow().units] == [pytest.approx(unit.mean) for unit in alone.flow().units]
    assert outer.flow().samples == 2 * alone.flow().samples

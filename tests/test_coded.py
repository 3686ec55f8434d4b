"""Neurons that take back, tell changes, or wait: each says a constant current to its stated precision, and more."""

import json
from dataclasses import replace

import pytest
import torch
from torch import nn

import isospike as iso
from isospike.analysis.raster import record_raster
from isospike.conversion import METHODS
from isospike.conversion.differential import told_as_changes
from isospike.conversion.lowering import Plan, lower
from isospike.conversion.methods import best_delay, from_half
from isospike.conversion.thresholds import gaussian_thresholds, quantile_thresholds, rounded
from isospike.conversion.walk import local_thresholds
from isospike.errors import ConfigError
from isospike.layers import BiasOnce, Changes, DelayedReadout, Differential, DifferentialReadout, SignedIF
from isospike.models import ProgramNet
from test_conversion import ann_of, images

T = 12
"""Steps."""


@pytest.fixture(scope="module")
def ann():
    return ann_of()


def currents(levels, count=401):
    """From below 0 to what neurons of so many levels can say."""
    return torch.linspace(-2, levels + 0.5, count, dtype=torch.float64)[None]


@pytest.mark.parametrize("levels", [1, 3, 15])
def test_a_neuron_that_takes_back_says_the_rectified_sum_in_whatever_order_it_came(levels):
    generator = torch.Generator().manual_seed(levels)
    x = (torch.rand(T, 1, 500, generator=generator, dtype=torch.float64) * 2 - 1) * levels / 2
    s, v = SignedIF(levels)(x)
    expected = x.sum(0).relu().round()
    assert s.min() < 0
    assert {*s.unique().tolist()} <= {*range(-levels, levels + 1)}
    assert (s.cumsum(0) >= 0).all()
    within = (x.cumsum(0).relu().round().diff(dim=0, prepend=torch.zeros(1, 1, 500)).abs() <= levels).all(0)
    assert torch.equal(s.sum(0)[within], expected[within])
    assert within.double().mean() > 0.9
    torch.testing.assert_close(v[0], x.sum(0) - s.sum(0))


@pytest.mark.parametrize("levels", [1, 3, 15])
def test_a_constant_current_is_said_to_half_a_threshold_over_the_steps(levels):
    """Of rates and of changes alike, and by taking back no worse than without."""
    x = currents(levels)
    target = x.relu().clamp(max=levels)
    steps = torch.arange(1, T + 1).view(-1, 1, 1)
    rates, _ = SignedIF(levels)(x.expand(T, 1, -1))
    told = torch.cat([x[None], torch.zeros(T - 1, *x.shape)])
    changes, _ = Differential(levels)(told)
    for said in (rates.cumsum(0) / steps, (changes / steps).cumsum(0)):
        inside = x[0] <= levels
        assert ((said - target)[..., inside].abs() <= 0.5 / steps + 1e-12).all()
    assert torch.equal(rates[0], changes[0])
    assert changes.abs().sum() < rates.abs().sum()


def test_changes_by_hand():
    changes, state = Differential(levels=2)(torch.tensor([[2.3], [0.0], [-2.0], [0.0]])[:, None])
    # told: 2.3, 2.3, 2.3 - 2/3 = 1.6333, the same; sent: 2, 2 + 1/2 = 2.5, 2.5 - 2/3 (3 wanted, 2 allowed), ...
    assert changes.flatten().tolist() == [2, 1, -2, -1]
    torch.testing.assert_close(state.flatten(), torch.tensor([2.3 - 2 / 3, 2 + 1 / 2 - 2 / 3 - 1 / 4, 4.0]))


def test_a_stream_told_as_changes_is_made_again_behind_linear_layers():
    torch.manual_seed(0)
    x, linear = torch.randn(9, 4, 6).double(), nn.Linear(6, 3).double()
    told, _ = Changes()(x)
    once, bias = BiasOnce(3).double(), linear.bias.detach()
    once.bias.data.copy_(bias)
    changes, _ = once(told @ linear.weight.T)
    made, _ = DifferentialReadout()(changes)
    torch.testing.assert_close(made, linear(x))
    constant, _ = Changes()(x[:1].expand(5, 4, 6))
    assert torch.equal(constant[0], x[0])
    assert not constant[1:].any()


@pytest.mark.parametrize("delay", [0, 1, 4, 20])
def test_a_delayed_readout_has_the_mean_behind_the_delay(delay):
    x = torch.randn(9, 2, 3, generator=torch.Generator().manual_seed(0)).double()
    made, _ = DelayedReadout(delay)(x)
    for t in range(1, 10):
        expected = x[delay:t].mean(0) if t > delay else x[:t].mean(0)
        torch.testing.assert_close(made[:t].mean(0), expected)


@pytest.mark.parametrize(
    "module", [SignedIF(3), Differential(3), Changes(), BiasOnce(4), DifferentialReadout(), DelayedReadout(2)]
)
def test_a_state_takes_up_where_it_was_left(module):
    x = torch.randn(7, 2, 4, generator=torch.Generator().manual_seed(0)) * 3
    whole, after = module(x)
    first, state = module(x[:3])
    second, last = module(x[3:], state)
    assert torch.equal(torch.cat([first, second]), whole)
    assert torch.equal(last, after)


@torch.no_grad()
def test_fine_changes_are_the_ann_at_every_step(ann):
    """Images are told once, and biases too, whatever stands between two neurons."""
    x, fine = images(4), 1 << 20
    units = {value: level / fine for value, level in quantile_thresholds(ann, [x], 1.0).items()}
    net = told_as_changes(lower(ann, Plan(units, lambda: Differential(2 * fine)), 3))
    means = net(x, per_step=True).cumsum(0) / torch.arange(1, 4).view(-1, 1, 1)
    torch.testing.assert_close(means, ann(x).expand(3, -1, -1), rtol=1e-4, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("method", ["multi_threshold", "differential"])
def test_more_digits_come_nearer_to_the_ann(ann, method):
    x = images()
    errors = [(METHODS[method].convert(ann, [x], T=4, thresholds=n)(x) - ann(x)).abs().mean() for n in (1, 4, 10)]
    assert errors[1] < errors[0] / 4
    assert errors[2] < errors[1] / 8


@torch.no_grad()
def test_taking_back_mends_what_arrives_unevenly(ann):
    """Of largest activations, so that nothing is clipped."""
    x = images()
    plan = Plan(quantile_thresholds(ann, [x], 1.0), SignedIF)
    nets = [lower(ann, replace(plan, neuron=neuron), 64) for neuron in (SignedIF, from_half)]
    errors = [(net(x) - ann(x)).abs().mean() for net in nets]
    assert errors[0] < errors[1] / 2


def test_a_gaussian_threshold_is_the_best_for_its_distribution(ann):
    x = images()
    found = gaussian_thresholds(ann, [x[:10], x[10:]], 7)
    first = next(iter(found))
    current = ann.get_submodule("stem.norm")(ann.get_submodule("stem.conv")(x)).detach()
    drawn = current.mean() + current.std() * torch.randn(200_000, generator=torch.Generator().manual_seed(0)).double()
    threshold = found[first]

    def error(t):
        return (rounded(drawn / t, 7) * t - drawn.relu()).square().mean()

    assert error(threshold) <= min(error(0.97 * threshold), error(1.03 * threshold))


def test_local_thresholds_go_down_the_gradient_of_the_clipping_error(ann):
    x = images(32)
    found = local_thresholds(ann, [x], 2)
    first = next(iter(found))
    values = torch.relu(ann.get_submodule("stem.norm")(ann.get_submodule("stem.conv")(x))).detach()
    threshold = torch.zeros(values.shape[1], dtype=torch.float64, requires_grad=True)
    for _ in range(2):
        clipped = torch.minimum(values, threshold.view(-1, 1, 1))
        error = (values - clipped).square().mean((0, 2, 3)).sum()
        (slope,) = torch.autograd.grad(error, threshold)
        threshold = torch.minimum(threshold - slope, values.amax((0, 2, 3))).detach().requires_grad_()
    torch.testing.assert_close(found[first], threshold.detach())
    largest = quantile_thresholds(ann, [x], 1.0, per_channel=True)[first]
    assert (local_thresholds(ann, [x], 6)[first] <= largest * (1 + 1e-9)).all()


@torch.no_grad()
def test_the_delay_is_that_with_which_most_decisions_are_those_of_the_ann(ann):
    x, steps = images(40), 8
    net = METHODS["percentile"].convert(ann, [images()], T=steps, quantile=1.0)
    logits, truth = net(x, per_step=True), ann(x).argmax(1)
    agreement = [int((logits[d:].mean(0).argmax(1) == truth).sum()) for d in range(steps)]
    assert best_delay(ann, net, x, steps) == agreement.index(max(agreement))


@pytest.mark.parametrize("method", ["multi_threshold", "differential", "ltb"])
def test_such_a_network_is_watched_counted_and_kept_to_its_edges(ann, method):
    net = METHODS[method].convert(ann, [images(40)], T=4, **({"steps": 5} if method == "ltb" else {}))
    x = images(3)
    edges = iso.check_edges(net, x)
    assert all(edge.kept for edge in edges)
    inner = edges[1:-1]
    assert all(edge.promised.largest is not None for edge in inner)
    assert any(edge.found.signed for edge in inner) == (method != "ltb")
    neurons = [m for m in net.modules() if getattr(m, "levels", None)]
    seen = []
    hooks = [m.register_forward_hook(lambda m, a, out: seen.append(out[0].abs().sum().item())) for m in neurons]
    net(x)
    for hook in hooks:
        hook.remove()
    work = iso.measure_energy(net, x).work
    assert work.spikes * len(x) == pytest.approx(sum(seen))
    assert all(layer.graded > 0 for layer in work.layers)
    with iso.watch(net) as flow:
        net(x)
    found = flow.flow()
    assert all(0 <= share <= 1 for neuron in found.neurons for share in neuron.histogram)
    assert all(sum(neuron.histogram) == pytest.approx(1) for neuron in found.neurons)
    raster = record_raster(net, x[:1])
    assert max(max(map(max, population.counts)) for population in raster.populations) <= raster.populations[0].levels


def test_a_sign_is_kept_in_the_file_and_costs_a_bit(ann):
    net = METHODS["multi_threshold"].convert(ann, [images(40)])
    read = ProgramNet.from_json(json.loads(json.dumps(net.as_json())))
    for value, again in zip(net.program.operations, read.program.operations, strict=True):
        assert value.out.domain == again.out.domain
    signed = [op.out.domain for op in net.program.operations if op.out.domain.signed]
    assert signed
    assert all(domain.bits == 5 for domain in signed)
    assert str(signed[0]) == "integer of at most 15 with a sign"


def test_int8_leaves_signed_maps_in_floating_point(ann):
    net = METHODS["multi_threshold"].convert(ann, [images(40)]).float()
    x = images(3).float()
    torch.testing.assert_close(net.compile_for_inference("int8")(x), net(x), rtol=1e-4, atol=1e-4)


@pytest.mark.compiled
def test_the_compiled_library_says_once_that_it_leaves_the_rule_to_the_reference():
    neuron, x = SignedIF(3), torch.randn(4, 2, 8)
    with iso.use_backend("cpu"), pytest.raises(ConfigError, match="does not know the rule SignedRule"):
        neuron(x)
    with iso.use_backend("reference"):
        expected = neuron(x)[0]
    assert torch.equal(neuron(x)[0], expected)


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("multi_threshold", {"thresholds": 0}, "are 1 to 12, got 0"),
        ("multi_threshold", {"thresholds": 13}, "are 1 to 12, got 13"),
        ("multi_threshold", {"choice": "best"}, "choice is one of mmse, gaussian, got 'best'"),
        ("differential", {"thresholds": 0}, "are 1 to 12, got 0"),
        ("ltb", {"T": 8, "delay": 8}, "leaves out some of the T=8 steps and not all of them: take 0 to 7"),
        ("ltb", {"steps": 0}, "searched in at least 1 step, got 0"),
    ],
)
def test_options_without_meaning_are_refused(ann, method, options, message):
    with pytest.raises(ConfigError, match=message):
        METHODS[method].convert(ann, [images(40)], **options)


def test_changes_do_not_go_through_a_max_pool():
    ann = ann_of("vanilla_resnet50", width=4)
    with pytest.raises(ConfigError, match="is a max-pool, which changes do not go through"):
        METHODS["differential"].convert(ann, [images(40, 32)])


@pytest.mark.parametrize(("make", "message"), [(SignedIF, "at least 1, got 0"), (Differential, "at least 1, got 0")])
def test_levels_are_at_least_one(make, message):
    with pytest.raises(ConfigError, match=message):
        make(0)
    with pytest.raises(ConfigError, match="0 or more, got -1"):
        DelayedReadout(-1)

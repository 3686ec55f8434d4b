"""Every backend computes what the reference does: the bits of spikes and potentials, and the gradients."""

import warnings
from dataclasses import replace
from itertools import product

import pytest
import torch

import isospike as iso
from helpers import (
    SPIKING,
    STEPPING,
    Step,
    assert_equals_reference,
    device_of,
    dyadic,
    enliven,
    in_few_programs,
    make_neuron,
    run_backend,
)
from isospike.errors import ConfigError, IsospikeWarning
from isospike.neurons import SpikingNeuron
from isospike.ops import BACKENDS, FireRule, backend, leaky_fire, use_backend
from isospike.ops.cpu import library
from isospike.surrogates import SURROGATES, Arctan, Rectangle

NEEDS = {"cpu": pytest.mark.compiled, "triton": pytest.mark.triton}
FAST = [pytest.param(name, marks=NEEDS[name]) for name in BACKENDS if name != "reference"]
RULES = [
    {"surrogate": surrogate, "v_threshold": 0.5, "detach_reset": detach, "strict": strict, **reset}
    for surrogate, detach, strict, reset in product(
        SURROGATES, (False, True), (False, True), ({}, {"v_reset": -0.25}, {"reset": "subtract"})
    )
]
SHAPES = [(1, 2, 3), (3, 1, 1), (4, 2, 1500), (5, 3, 4, 7, 7), (2, 2, 64, 16, 16)]


@pytest.fixture(autouse=True)
def _few_programs(monkeypatch):
    in_few_programs(monkeypatch)


@pytest.mark.parametrize("name", FAST)
@pytest.mark.parametrize("rule", RULES, ids=lambda r: "-".join(str(v) for v in r.values()))
def test_every_rule_and_surrogate(name, rule):
    x = dyadic(5, 3, 700)
    for kind in STEPPING if name == "cpu" else ["plif"]:
        options = {**rule} if kind != "mlf" else {k: v for k, v in rule.items() if k != "v_threshold"}
        assert_equals_reference(name, make_neuron(kind, **options), x, None)


@pytest.mark.parametrize("name", FAST)
@pytest.mark.parametrize("kind", SPIKING)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("from_rest", [True, False])
def test_every_neuron_and_shape(name, kind, shape, from_rest):
    neuron = make_neuron(kind)
    v = None if from_rest else torch.randn(neuron.rule.state_shape(shape[1:]))
    assert_equals_reference(name, neuron, 2 * torch.randn(shape), v)


@pytest.mark.parametrize("name", FAST)
@pytest.mark.parametrize("kind", SPIKING)
def test_images_in_any_memory_order(name, kind):
    neuron = make_neuron(kind)
    nhwc = torch.randn(6, 8, 5, 5).contiguous(memory_format=torch.channels_last).unflatten(0, (3, 2))
    for x in (nhwc, torch.randn(2, 3, 8, 5, 5).transpose(0, 1), torch.randn(3, 2, 5, 5, 8).movedim(-1, 3)):
        assert_equals_reference(name, neuron, x, None)
    with use_backend(name):
        s, _ = neuron.to(device_of(name))(nhwc.to(device_of(name)))
    assert s.flatten(0, 1).is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("name", FAST)
@pytest.mark.parametrize("kind", SPIKING)
def test_a_current_that_stays_is_not_copied_and_gets_the_sum_of_gradients(name, kind):
    neuron = make_neuron(kind).to(device_of(name))
    still = torch.randn(1, 3, 40, device=device_of(name)).requires_grad_()
    with use_backend(name):
        s, _ = neuron(still.expand(4, 3, 40))
    copied = still.detach().repeat(4, 1, 1).requires_grad_()
    with use_backend("reference"):
        s_true, _ = neuron(copied)
    g = torch.randn_like(s)
    assert torch.equal(s, s_true)
    (d,), (d_true,) = torch.autograd.grad(s, still, g), torch.autograd.grad(s_true, copied, g)
    torch.testing.assert_close(d, d_true.sum(0, keepdim=True), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", FAST)
def test_two_runs_have_the_same_bits_whatever_the_number_of_threads(name):
    neuron = make_neuron("plif")
    x, g = torch.randn(4, 8, 5000), torch.randn(4, 8, 5000)
    results, threads = [], torch.get_num_threads()
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        results.append(run_backend(name, device_of(name), neuron, x, None, [g, torch.zeros(8, 5000)]))
    torch.set_num_threads(threads)
    for s, end, d in results[1:]:
        assert torch.equal(s, results[0][0])
        assert torch.equal(end, results[0][1])
        assert all(torch.equal(a, b) for a, b in zip(d, results[0][2], strict=True))


@pytest.mark.parametrize("name", FAST)
@pytest.mark.parametrize("topology", iso.TOPOLOGIES)
def test_a_network_in_eval_says_the_same_on_every_backend(name, topology):
    """In training norms are part of a fused pass; see test_norm_fire.py and test_gpu_norm_fire.py.

    The surrogate is a smooth one: at the edge of a rectangle the last bit of a potential would decide about a gradient.
    Weights and images are multiples of 1/64, so that sums over spikes are exact in whatever order a backend makes them.
    """
    torch.manual_seed(0)
    device = device_of(name)
    model = enliven(iso.create_model(f"{topology}_resnet8")).eval().to(device)
    for conv in (module for module in model.modules() if isinstance(module, torch.nn.Conv2d)):
        conv.weight.data = (conv.weight.data * 64).round() / 64
    for neuron in (module for module in model.modules() if isinstance(module, SpikingNeuron)):
        if isinstance(neuron.rule, FireRule):
            neuron.rule = replace(neuron.rule, surrogate=Arctan())
    x, outcomes = dyadic(4, 3, 16, 16).to(device), {}
    for backend_name in (name, "reference"):
        model.zero_grad()
        with use_backend(backend_name):
            loss = torch.nn.functional.cross_entropy(model(x), torch.arange(4, device=device))
            loss.backward()
        outcomes[backend_name] = loss.detach(), [p.grad.clone() for p in model.parameters()]
    loss, grads = outcomes["reference"]
    largest = max(g.abs().max().item() for g in grads)
    assert torch.equal(outcomes[name][0], loss)
    for a, b in zip(outcomes[name][1], grads, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5 * largest)


CALLS = [
    (torch.randn(2, 3, 4, dtype=torch.float64), FireRule(), "it computes in float32, and is given float64"),
    (torch.randn(2, 3, 4).bfloat16(), FireRule(), "it computes in float32, and is given bfloat16"),
    (torch.empty(2, 3, 4, device="meta"), FireRule(), "plain tensors in the memory of the CPU"),
    (torch.randn(2, 3, 4), FireRule(surrogate=Step()), "it does not know the surrogate Step"),
    (torch.randn(2, 3, 4), FireRule(higher=tuple(range(2, 19))), "it has room for 16 levels"),
]


@pytest.mark.compiled
@pytest.mark.parametrize(("x", "rule", "reason"), CALLS)
def test_what_the_cpu_backend_cannot_is_refused_by_name_and_left_to_the_reference_by_auto(x, rule, reason):
    with use_backend("cpu"), pytest.raises(ConfigError, match=f"backend 'cpu' cannot run this: .*{reason}"):
        leaky_fire(x, decay=0.5, gain=1.0, rule=rule)
    s, _ = leaky_fire(x, decay=0.5, gain=1.0, rule=rule)
    with use_backend("reference"):
        expected, _ = leaky_fire(x, decay=0.5, gain=1.0, rule=rule)
    assert x.is_meta or torch.equal(s, expected)


@pytest.mark.compiled
def test_auto_takes_the_compiled_library_where_it_can(monkeypatch):
    assert backend.pick(torch.randn(2, 3), None, FireRule()).name == "cpu"
    with use_backend("reference"):
        assert backend.pick(torch.randn(2, 3), None, FireRule()).name == "reference"


@pytest.mark.compiled
@pytest.mark.usefixtures("found_anew")
def test_a_missing_library_is_said_once_and_costs_speed_only(monkeypatch, tmp_path):
    monkeypatch.setattr(library, "FOLDER", tmp_path)
    backend._say_once.cache_clear()
    x = torch.randn(3, 2, 5)
    with pytest.warns(IsospikeWarning, match="eager reference.*install a C compiler, then install isospike again"):
        s, _ = leaky_fire(x, decay=0.5, gain=1.0, rule=FireRule())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again, _ = leaky_fire(x, decay=0.5, gain=1.0, rule=FireRule())
    assert torch.equal(s, again)
    with use_backend("cpu"), pytest.raises(ConfigError, match="the compiled library is missing"):
        leaky_fire(x, decay=0.5, gain=1.0, rule=FireRule())


@pytest.mark.parametrize("name", FAST)
def test_a_second_derivative_is_refused_and_the_reference_has_it(name):
    x = torch.randn(2, 3, 4, device=device_of(name)).requires_grad_()
    with use_backend(name):
        s, _ = leaky_fire(x, decay=0.5, gain=1.0, rule=FireRule())
    with pytest.raises(ConfigError, match=r"no second derivative: run this inside iso.use_backend\('reference'\)"):
        torch.autograd.grad(s.sum(), x, create_graph=True)
    with use_backend("reference"):
        s, _ = leaky_fire(x, decay=0.5, gain=1.0, rule=FireRule())
    (d,) = torch.autograd.grad(s.sum(), x, create_graph=True)
    assert torch.autograd.grad(d.sum(), x)[0].abs().sum() > 0


@pytest.mark.compiled
@pytest.mark.parametrize(
    "neuron",
    [
        *map(make_neuron, ("lif", "plif", "ilif")),
        *(
            make_neuron("lif", detach_reset=True, reset=reset, surrogate=Rectangle())
            for reset in ("to_value", "subtract")
        ),  # masks
    ],
    ids=str,
)
@pytest.mark.parametrize("started", [False, True])
def test_what_is_written_past_the_caches_has_the_bits_of_its_parts(neuron, started):
    """Large tensors are written another way; their halves, too small for that, are not."""
    N = 2**21 + 40
    x, g = torch.randn(2, 1, N).requires_grad_(), torch.randn(2, 1, N)
    v = torch.randn(neuron.rule.state_shape((1, N))).requires_grad_() if started else None
    decay, gain = neuron.coefficients()

    def run(part):
        inputs = [x[..., part], *([] if v is None else [v[..., part]])]
        s, end = leaky_fire(*inputs, decay=decay, gain=gain, rule=neuron.rule)
        return s, end, *torch.autograd.grad([s, end], inputs, [g[..., part], g[0, :, part]])

    whole, halves = run(slice(None)), [run(slice(0, N // 2)), run(slice(N // 2, None))]
    for together, *parts in zip(whole, *halves, strict=True):
        assert torch.equal(together, torch.cat(parts, -1))

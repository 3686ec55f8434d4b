"""On a GPU spikes are kept as bits, counts as bytes and rectangles as masks, and every gradient stays what it was."""

import pytest
import torch
from torch import nn

import isospike as iso
from helpers import device_of, in_few_programs, make_neuron
from isospike.errors import ConfigError
from isospike.ops import FireRule, Firing, IntegerRule, leaky_fire, packed_conv, use_backend
from isospike.ops.fired import fired, note_fired
from isospike.ops.gpu import leaky_fire as fire
from isospike.ops.gpu import norm_fire as norm
from isospike.ops.gpu import packed_conv as gpu_packed_conv
from isospike.ops.gpu.norm_fire import norm_fire
from isospike.surrogates import Rectangle

pytestmark = pytest.mark.triton
DEVICE = device_of("triton")
RULE = FireRule(v_threshold=0.5, surrogate=Rectangle(), detach_reset=True)


@pytest.fixture(autouse=True)
def _triton(monkeypatch):
    monkeypatch.setattr(norm, "PARTS", 4)
    with use_backend("triton"):
        yield


def images(*shape, dtype=torch.float32):
    x = torch.randn(shape[0] * shape[1], *shape[2:]).contiguous(memory_format=torch.channels_last)
    return x.unflatten(0, shape[:2]).to(DEVICE, dtype).requires_grad_()


def fused(x, rule=RULE, **joins):
    """Spikes behind a norm."""
    C = x.shape[2]
    joins = {"skip": None, "added": None, "keep": False, **joins}
    weight, bias = torch.ones(C, device=DEVICE), torch.zeros(C, device=DEVICE)
    return norm_fire(x, weight, bias, 1e-5, firing=Firing(0.25, 1.0, rule), **joins)


def kept_by(run):
    """What ``run`` gives, and all that is kept for its backward."""
    kept = {}
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.update({t.data_ptr(): t}) or t, lambda t: t):
        outcome = run()
    return outcome, list(kept.values())


def bits_of(s):
    """In the order of memory: that of the channels of a pixel where a step lies channels-last."""
    inner = s.permute(0, 1, 3, 4, 2) if s.dim() == 5 else s
    return (inner.reshape(-1, 8).to(torch.uint8) << torch.arange(8, device=s.device, dtype=torch.uint8)).sum(1)


# What is known -----------------------------------------------------------------------------------------------------


def test_what_was_noted_is_known_of_views_until_somebody_writes():
    s = torch.ones(2, 3, 8, 4, 4)
    assert fired(s) is None
    note_fired(s, 1, torch.ones(1))
    for view in (s, s.flatten(0, 1), s.flatten(0, 1).unflatten(0, (2, 3))):
        assert fired(view).levels == 1
        assert fired(view).bits is not None
    for part in (s[:1], s.transpose(1, 2), s[:, :1].expand(-1, 3, -1, -1, -1)):
        assert fired(part).levels == 1
        assert fired(part).bits is None
    assert fired(s * 1) is None
    s[0] = 0.5
    assert fired(s) is None
    assert fired(s.flatten(0, 1)) is None


@pytest.mark.parametrize("C", [8, 24, 72])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_fused_neuron_writes_the_bits_of_its_spikes(C, dtype):
    s = fused(images(3, 2, C, 5, 3, dtype=dtype)).s
    assert 0 < s.float().mean() < 1
    assert torch.equal(fired(s.flatten(0, 1)).bits, bits_of(s))


@pytest.mark.parametrize("shape", [(3, 2, 8), (2, 5, 2056)])
def test_a_neuron_alone_writes_the_bits_of_its_spikes(shape):
    s, _ = leaky_fire(torch.randn(shape, device=DEVICE).requires_grad_(), decay=0.5, gain=1.0, rule=RULE)
    assert torch.equal(fired(s).bits, bits_of(s))


def test_no_bits_where_nothing_is_recorded_or_a_group_is_broken_or_values_are_counts():
    with torch.no_grad():
        assert fired(fused(images(2, 2, 8, 3, 3)).s)[:2] == (1, None)
    assert fired(fused(images(2, 2, 6, 2, 2)).s)[:2] == (1, None)
    assert fired(fused(images(2, 2, 8, 2, 2), FireRule(higher=(2.0, 3.0))).s)[:2] == (3, None)
    assert fired(fused(images(2, 2, 8, 2, 2), IntegerRule(levels=5)).s)[:2] == (5, None)


def test_in_inference_mode_nothing_is_noted():
    with torch.inference_mode():
        s = fused(images(2, 2, 8, 3, 3)).s
        alone, _ = leaky_fire(torch.randn(2, 2, 8, device=DEVICE), decay=0.5, gain=1.0, rule=RULE)
        assert fired(s) is fired(alone) is None
        assert packed_conv(nn.Conv2d(8, 6, 3).to(DEVICE), s.flatten(0, 1)) is None


def test_a_sum_of_spikes_is_known_where_both_are():
    added = fused(images(2, 2, 8, 3, 3)).s
    both = fused(images(2, 2, 8, 3, 3), added=added).s
    assert fired(both)[:2] == (2, None)
    assert both.max() == 2
    assert fired(fused(images(2, 2, 8, 3, 3), added=added * 0.5).s) is None


# Convolutions ------------------------------------------------------------------------------------------------------

INPUTS = {
    "bits": (lambda: fused(images(2, 2, 8, 6, 5)).s, 1 / 8),
    "spikes": (lambda: fused(images(2, 2, 6, 6, 5)).s, 1),
    "counts": (lambda: fused(images(2, 2, 8, 6, 5), FireRule(higher=(1.5,))).s, 1),
    "gaps": (lambda: fused(images(2, 2, 8, 6, 5)).s[..., :4], 4),
}


@pytest.mark.parametrize("options", [{"padding": 1}, {"stride": 2, "bias": False}, {"groups": 2}], ids=str)
@pytest.mark.parametrize("kind", INPUTS)
def test_gradients_are_those_of_the_plain_convolution(kind, options):
    make, size = INPUTS[kind]
    s = make().flatten(0, 1)
    conv = nn.Conv2d(s.shape[1], 6, 3, **options).to(DEVICE)
    y, kept = kept_by(lambda: packed_conv(conv, s))
    true = conv(s)
    assert torch.equal(y, true)
    inputs, g = [s, *conv.parameters()], torch.randn_like(true)
    ours, truth = (torch.autograd.grad(o, inputs, g, retain_graph=True) for o in (y, true))
    assert all(torch.equal(a, b) for a, b in zip(ours, truth, strict=True))
    assert sum(t.nbytes for t in kept if t is not conv.weight) == s.numel() * size


@pytest.mark.parametrize("kind", ["bits", "counts"])
def test_autocast_rounds_what_it_rounds_without(kind):
    s = INPUTS[kind][0]().flatten(0, 1)
    conv = nn.Conv2d(8, 6, 3, padding=1).to(DEVICE)
    with torch.autocast(DEVICE, torch.bfloat16):
        y, true = packed_conv(conv, s), conv(s)
    assert y.dtype == torch.bfloat16
    assert torch.equal(y, true)
    inputs, g = [s, *conv.parameters()], torch.randn_like(true)
    ours, truth = (torch.autograd.grad(o, inputs, g, retain_graph=True) for o in (y, true))
    for a, b in zip(ours, truth, strict=True):
        assert a.dtype == torch.float32
        torch.testing.assert_close(a, b, rtol=1e-2, atol=1e-2)


def test_what_it_cannot_is_left_to_the_module():
    s = fused(images(2, 2, 8, 6, 5)).s.flatten(0, 1)
    conv = nn.Conv2d(8, 6, 3).to(DEVICE)
    assert packed_conv(conv, s) is not None
    assert packed_conv(conv, s * 1) is None
    assert packed_conv(nn.Conv2d(8, 6, 3, padding=1, padding_mode="circular").to(DEVICE), s) is None
    assert packed_conv(conv.double(), s) is None
    conv.float()
    many = s * 1
    note_fired(many, 256)
    assert packed_conv(conv, many) is None
    with torch.no_grad():
        assert packed_conv(conv, s) is None
    with use_backend("reference"):
        assert packed_conv(conv, s) is None
    assert packed_conv(conv.requires_grad_(False), s) is None


def test_a_second_derivative_is_refused():
    s = fused(images(2, 2, 8, 4, 4)).s.flatten(0, 1)
    y = packed_conv(nn.Conv2d(8, 6, 3).to(DEVICE), s)
    with pytest.raises(ConfigError, match="no second derivative"):
        torch.autograd.grad(y.sum(), s, create_graph=True)


# Masks -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("T", [1, 4, 5, 8, 9, 16, 17, 24])
@pytest.mark.parametrize("reset", ["to_value", "subtract"])
def test_masks_give_the_bits_of_the_gradients_of_the_currents(T, reset, monkeypatch):
    v_reset = -0.25 if reset == "to_value" else 0.0
    rule = FireRule(0.5, reset, v_reset=v_reset, surrogate=Rectangle(0.7), detach_reset=True)
    x, skip = images(T, 1, 8, 2, 2), images(T, 1, 8, 2, 2)
    g, grads = torch.randn_like(x), []
    for masked in (True, False):
        if not masked:
            monkeypatch.setattr(norm, "room_for_masks", lambda x, rule: None)
        done, kept = kept_by(lambda: fused(x, rule, skip=skip))
        masks = [t for t in kept if t.dtype in fire.MASKS]
        assert [t.nbytes for t in masks] == ([x[0].numel() * max(1, 1 << (T - 1).bit_length() >> 2)] if masked else [])
        assert sum(t.shape == x.shape for t in kept) == (1 if masked else 2)
        grads.append(torch.autograd.grad(done.s, [x, skip], g))
    assert grads[0][1].abs().sum() > 0
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


@pytest.mark.parametrize("started", [False, True])
@pytest.mark.parametrize("reset", ["to_value", "subtract"])
def test_masks_of_a_neuron_alone_give_the_bits_of_the_gradients(reset, started, monkeypatch):
    monkeypatch.setattr(fire, "MAX_STATES", 3)  # five steps take two kernels
    rule = FireRule(0.5, reset, surrogate=Rectangle(0.7), detach_reset=True)
    x, grads = torch.randn(5, 2, 37, device=DEVICE).requires_grad_(), []
    v = torch.randn(2, 37, device=DEVICE).requires_grad_() if started else None
    g, g_end = torch.randn_like(x), torch.randn(2, 37, device=DEVICE)
    for masked in (True, False):
        if not masked:
            monkeypatch.setattr(fire, "room_for_masks", lambda x, rule: None)
        (s, end), kept = kept_by(lambda: leaky_fire(x, v, decay=0.5, gain=0.75, rule=rule))
        assert {t.dtype for t in kept} == ({torch.uint8} if masked else {torch.float32})
        grads.append(torch.autograd.grad([s, end], [x, v] if started else [x], [g, g_end]))
    assert grads[0][0].abs().sum() > 0
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


@pytest.mark.parametrize("kind", ["plif", "mlf", "ilif", "lif"])
def test_neurons_of_which_masks_do_not_say_all_have_none(kind):
    neuron = make_neuron(kind).to(DEVICE)
    x, skip = images(3, 1, 8, 2, 2), images(3, 1, 8, 2, 2)
    decay, gain = neuron.coefficients()
    run = lambda: norm_fire(  # noqa: E731
        x, torch.ones(8, device=DEVICE), torch.zeros(8, device=DEVICE), 1e-5,
        skip=skip, firing=Firing(decay, gain, neuron.rule), added=None, keep=False,
    )  # fmt: skip
    _, kept = kept_by(run)
    assert not any(t.dtype in fire.MASKS for t in kept)


# Networks ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("topology", ["ms", "sew", "ds", "vanilla"])
def test_a_network_keeps_less_and_has_the_bits_of_the_gradients(topology, monkeypatch):
    in_few_programs(monkeypatch)
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)  # else two runs of one kernel differ in last bits
    model = iso.create_model(f"{topology}_resnet8", T=2, width=8).to(DEVICE)
    x, y, runs = torch.randn(2, 3, 16, 16, device=DEVICE), torch.arange(2, device=DEVICE), []
    for small in (True, False):
        if not small:
            monkeypatch.setattr(gpu_packed_conv, "applies", lambda conv, x: False)
            monkeypatch.setattr(norm, "room_for_masks", lambda x, rule: None)
        model.zero_grad()
        loss, kept = kept_by(lambda: nn.functional.cross_entropy(model(x), y))
        loss.backward()
        storages = [t.untyped_storage() for t in kept if not isinstance(t, nn.Parameter)]
        of_activations = {storage.data_ptr(): storage.nbytes() for storage in storages}
        runs.append((sum(of_activations.values()), {name: p.grad.clone() for name, p in model.named_parameters()}))
    assert runs[0][0] < 0.75 * runs[1][0]
    for name, grad in runs[0][1].items():
        if DEVICE == "cuda" and ".norm" in name:  # sums over pixels: Triton's layout of a tile follows what is loaded
            torch.testing.assert_close(grad, runs[1][1][name], rtol=1e-5, atol=1e-6)
        else:
            assert torch.equal(grad, runs[1][1][name])

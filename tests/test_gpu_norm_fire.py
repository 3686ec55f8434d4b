"""Norm, skip and recurrence as one in Triton, against the reference."""

import pytest
import torch

import isospike as iso
from helpers import SPIKING, device_of, dyadic, in_few_programs, make_neuron
from isospike.errors import ConfigError
from isospike.ops import FireRule, Firing, IntegerRule, backend, reference, use_backend
from isospike.ops.gpu import norm_fire as norm
from isospike.ops.gpu.norm_fire import norm_fire

pytestmark = pytest.mark.triton
DEVICE = device_of("triton")


@pytest.fixture(autouse=True)
def _few_programs(monkeypatch):
    """In the interpreter a program takes its time, whatever its size."""
    monkeypatch.setattr(norm, "PARTS", 4)


def make(shape, *, skip=None, added=None, dtype=torch.float32):
    """Currents, weight, bias, skip and addend; those may be static, T = 1."""
    images = [(3 * torch.randn(shape) + 5).to(dtype)]
    images += [None if T is None else torch.randn(T, *shape[1:]).to(dtype) for T in (skip, added)]
    x, skip, added = (None if t is None else to_channels_last(t).to(DEVICE).requires_grad_() for t in images)
    weight, bias = torch.rand(shape[2]) + 0.5, torch.randn(shape[2])
    return x, weight.to(DEVICE).requires_grad_(), bias.to(DEVICE).requires_grad_(), skip, added


def to_channels_last(x):
    return x.flatten(0, 1).contiguous(memory_format=torch.channels_last).unflatten(0, x.shape[:2])


def firing_of(kind):
    if kind is None:
        return None, []
    neuron = make_neuron(kind).to(DEVICE)
    decay, gain = neuron.coefficients()
    learned = [c for c in (decay, gain) if isinstance(c, torch.Tensor)]
    return Firing(decay, gain, neuron.rule), learned


def assert_equals_reference(firing, learned, x, weight, bias, skip, added, *, keep, rtol=2e-4, eps=(1e-5, 0.0)):
    inputs = [t for t in (x, weight, bias, skip, added, *learned) if t is not None]
    outcomes = []
    for run in (norm_fire, reference.norm_fire):
        u, s = run(x, weight, bias, *eps, skip=skip, firing=firing, added=added, keep=keep)[:2]
        outputs = [o for o in (u, s) if o is not None]
        torch.manual_seed(1)
        grads = [torch.randn(o.shape).to(o) for o in outputs]
        outcomes.append((outputs, torch.autograd.grad(outputs, inputs, grads, retain_graph=True)))
    for ours, truth in zip(outcomes[0][0], outcomes[1][0], strict=True):
        assert (ours.dtype, ours.shape) == (truth.dtype, truth.shape)
        torch.testing.assert_close(ours, truth, rtol=rtol, atol=rtol)
    for ours, truth, of in zip(outcomes[0][1], outcomes[1][1], inputs, strict=True):
        assert (ours.dtype, ours.shape) == (of.dtype, of.shape)
        torch.testing.assert_close(ours, truth, rtol=10 * rtol, atol=rtol * truth.abs().max().item())


@pytest.mark.parametrize("kind", [None, *SPIKING])
@pytest.mark.parametrize(
    ("skip", "added", "keep"), [(None, None, False), (3, None, True), (3, None, False), (1, 1, False), (None, 3, True)]
)
def test_every_neuron_and_what_joins(kind, skip, added, keep):
    firing, learned = firing_of(kind)
    if firing is None:
        added, keep = None, True
    assert_equals_reference(firing, learned, *make((3, 2, 5, 4, 3), skip=skip, added=added), keep=keep)


@pytest.mark.parametrize("kind", [None, "lif"])
def test_eps_beside_the_root_of_the_variance(kind):
    firing, learned = firing_of(kind)
    assert_equals_reference(firing, learned, *make((3, 2, 5, 4, 3), skip=3), keep=True, eps=(0.0, 0.5))


@pytest.mark.parametrize("shape", [(2, 3, 1, 5, 5), (1, 2, 130, 3, 2), (4, 6, 16, 9, 9), (2, 2, 64, 1, 1)], ids=str)
@pytest.mark.parametrize("kind", [None, "lif"])
def test_many_programs_along_pixels_and_channels(kind, shape):
    firing, learned = firing_of(kind)
    assert_equals_reference(firing, learned, *make(shape, skip=shape[0]), keep=True)


def test_statistics_are_those_of_the_batch_even_far_from_zero():
    x = 1000 + torch.randn(2, 3, 5, 8, 8, device=DEVICE)
    _, _, mean, var = norm_fire(
        x, torch.ones(5, device=DEVICE), torch.zeros(5, device=DEVICE), 1e-5,
        skip=None, firing=None, added=None, keep=True,
    )  # fmt: skip
    var_true, mean_true = torch.var_mean(x.double(), (0, 1, 3, 4), correction=0)
    torch.testing.assert_close(mean, mean_true.float(), rtol=1e-6, atol=0)
    torch.testing.assert_close(var, var_true.float(), rtol=1e-4, atol=0)


def test_any_memory_order_comes_out_channels_last():
    x, weight, bias, _, _ = make((2, 3, 5, 4, 4))
    firing, _ = firing_of("lif")
    rest = {"skip": None, "firing": firing, "added": None, "keep": True}
    outcomes = [norm_fire(images, weight, bias, 1e-5, **rest) for images in (x, x.contiguous())]
    for ours, theirs in zip(*outcomes, strict=True):
        assert torch.equal(ours, theirs)
    assert outcomes[1].s.flatten(0, 1).is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float16, 4e-3), (torch.bfloat16, 4e-2)])
def test_half_precision_rounds_what_is_written_and_nothing_else(dtype, bound):
    """Potentials are float32, sums too: the float32 run on the same numbers agrees to the rounding of its output."""
    half = make((3, 2, 16, 8, 8), skip=3, dtype=dtype)
    firing, _ = firing_of("lif")
    exact = [t if t is None else t.detach().float().requires_grad_() for t in half]
    outcomes = []
    for x, weight, bias, skip, _ in (half, exact):
        u, s, mean, var = norm_fire(x, weight, bias, 1e-5, skip=skip, firing=firing, added=None, keep=True)
        grads = torch.autograd.grad(u.float().sum(), [x, weight, bias, skip])
        outcomes.append((u, mean, var, *grads))
        assert (u.dtype, s.dtype, mean.dtype) == (x.dtype, x.dtype, torch.float32)
        expected, _ = reference.leaky_fire(u.float(), None, decay=firing.decay, gain=firing.gain, rule=firing.rule)
        assert torch.equal(s.float(), expected)
    for rounded, truth in zip(*outcomes, strict=True):
        torch.testing.assert_close(rounded.float(), truth, rtol=bound, atol=bound)


def test_two_runs_have_the_same_bits():
    firing, learned = firing_of("plif")
    inputs = make((4, 6, 16, 9, 9), skip=4)
    runs = []
    for _ in range(2):
        x, weight, bias, skip, _ = inputs
        s = norm_fire(x, weight, bias, 1e-5, skip=skip, firing=firing, added=None, keep=False).s
        runs.append(torch.autograd.grad(s.sum(), [x, weight, bias, *learned], retain_graph=True))
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


REFUSED = [
    (torch.float64, None, "it takes currents in float32, float16 and bfloat16"),
    (torch.float32, Firing(0.5, 1.0, IntegerRule(levels=2**21)), "it has room for 8 levels, and for integers"),
    (torch.float32, Firing(0.5, 1.0, FireRule(higher=tuple(range(2, 10)))), "it has room for 24 steps times levels"),
]


@pytest.mark.parametrize(("dtype", "firing", "reason"), REFUSED)
def test_what_it_cannot_is_refused(dtype, firing, reason):
    x = dyadic(3, 2, 4, 2, 2, dtype=dtype).to(DEVICE)
    assert reason in norm.refusal(x, None, None, firing)
    assert norm.refusal(x.float(), None, None, Firing(0.5, 1.0, FireRule())) is None


def test_a_second_derivative_is_refused():
    x, weight, bias, _, _ = make((2, 2, 3, 2, 2))
    u = norm_fire(x, weight, bias, 1e-5, skip=None, firing=None, added=None, keep=True).u
    with pytest.raises(ConfigError, match="no second derivative"):
        torch.autograd.grad(u.square().sum(), x, create_graph=True)


@pytest.mark.parametrize("topology", ["ms", "sew"])
def test_a_network_in_training_takes_it_and_agrees(monkeypatch, topology):
    """A last bit may become a spike: the losses agree as far as that goes."""
    in_few_programs(monkeypatch)
    model = iso.create_model(f"{topology}_resnet8", T=2).to(DEVICE)
    x, y, losses = torch.randn(4, 3, 8, 8, device=DEVICE), torch.arange(4, device=DEVICE), []
    for name in ("triton", "reference"):
        with use_backend(name):
            model.zero_grad()
            loss = torch.nn.functional.cross_entropy(model(x), y)
            loss.backward()
        losses.append(torch.stack([loss.detach(), model.head.fc.weight.grad.norm()]))
    torch.testing.assert_close(*losses, rtol=1e-3, atol=1e-4)


def test_auto_takes_the_fused_pass_on_a_gpu_alone():
    x = torch.randn(2, 2, 3, 4, 4, dtype=torch.float16)
    assert backend.pick_norm_fire(x, None, None, None) is None
    with use_backend("triton"):
        assert backend.pick_norm_fire(x.to(DEVICE), None, None, None) is backend.BACKENDS["triton"].fused

"""Every norm is its formula in float64, forward and backward, however few samples and steps there are."""

from itertools import product

import pytest
import torch
import torch.distributed as dist

import isospike as iso
from helpers import enliven
from isospike.errors import ConfigError
from isospike.layers import BatchNorm, PerStepNorm, Steps, fold_time, synchronise_norms
from isospike.ops import BACKENDS, reference, use_backend

C = 3
EPS = [(1e-5, 0.0), (0.0, 1e-5), (0.5, 0.25)]
DTYPES = [torch.float32, torch.float64, torch.bfloat16]
NORM_FIRE = {
    "reference": reference.norm_fire,
    **{name: BACKENDS[name].fused.run for name in BACKENDS if BACKENDS[name].device == "cpu"},
}
CASES = [(kind, dtype) for kind in ("joint", "synchronised", "per step", "reference") for dtype in DTYPES]
CASES += [pytest.param(name, torch.float32, marks=pytest.mark.compiled) for name in NORM_FIRE if name != "reference"]


def formula(x, weight, bias, eps=1e-5, root_eps=0.0):
    """Of ``x [N, C, H, W]``, and its mean and unbiased variance."""
    count = x.numel() // x.shape[1]
    mean = x.sum((0, 2, 3), keepdim=True) / count
    squares = (x - mean).square().sum((0, 2, 3), keepdim=True)
    xhat = (x - mean) / ((squares / count + eps).sqrt() + root_eps)
    y = weight.view(-1, 1, 1) * xhat + bias.view(-1, 1, 1)
    return y, mean.flatten().detach(), squares.flatten().detach() / (count - 1)


def lay(x, channels_last):
    if not channels_last:
        return x.contiguous()
    return x.flatten(0, 1).contiguous(memory_format=torch.channels_last).unflatten(0, x.shape[:2])


def spread(T, B, H, W):
    """Images whose channels differ in mean and deviation and vary enough that rounding errors stay small."""
    count = T * B * H * W
    channels = [torch.linspace(-1.5, 1.5, count)[torch.randperm(count)] * 2.0**c + c for c in range(C)]
    return torch.stack(channels).view(C, T, B, H, W).permute(1, 2, 0, 3, 4)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """A group of this process alone."""
    store = tmp_path_factory.mktemp("store") / "store"
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=0, world_size=1)
    yield dist.group.WORLD
    dist.destroy_process_group()


def build(kind, T, eps, request):
    """A norm of ``[T, B, C, H, W]`` as a module, the steps that it takes together, and how it is run."""
    options = {"scale": 0.5, "eps": eps[0], "root_eps": eps[1]}
    if kind == "per step":
        norm = enliven(PerStepNorm(T, C, **options))
        return norm, 1, lambda x: Steps(T).through(norm, x)
    norm = enliven(BatchNorm(C, **options))
    if kind == "synchronised":
        synchronise_norms(norm, request.getfixturevalue("alone"))
    if kind in NORM_FIRE:
        return norm, T, lambda x: norm_alone(NORM_FIRE[kind], x, norm.scaled_weight(), norm.bias, eps)
    return norm, T, lambda x: fold_time(norm, x)


def norm_alone(run, x, weight, bias, eps):
    return run(x, weight, bias, *eps, skip=None, firing=None, added=None, keep=True).u


@pytest.mark.parametrize("eps", EPS[:2], ids=str)
@pytest.mark.parametrize(("kind", "dtype"), CASES, ids=str)
def test_output_and_gradients_are_those_of_the_formula(kind, dtype, eps, request):
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    bound = {torch.float32: 1e-4, torch.float64: 1e-10, torch.bfloat16: 3e-2}[dtype]
    orders = (True, False)
    for T, B, (H, W), last, g_last in product((1, 2, 3), (1, 2, 3), ((4, 5), (4, 1), (1, 1)), orders, orders):
        norm, together, run = build(kind, T, eps, request)
        norm.to(wide)
        if together * B * H * W < 2:
            continue
        x = lay(torch.cat([spread(together, B, H, W) for _ in range(T // together)]).to(dtype), last)
        g = lay(torch.randn(T, B, C, H, W).to(dtype), g_last)
        x, true_x = x.requires_grad_(), x.detach().double().requires_grad_()
        weights = list(norm.parameters())
        y = run(x)
        ours = [y, *torch.autograd.grad(y, [x, *weights], g)]
        one_norm = [norm] * (T // together) if isinstance(norm, BatchNorm) else list(norm)
        true_weights = [[w.detach().double().requires_grad_() for w in (n.weight, n.bias)] for n in one_norm]
        parts = [
            formula(part.flatten(0, 1), 0.5 * weight, bias, *eps)[0].unflatten(0, (together, B))
            for part, (weight, bias) in zip(true_x.split(together), true_weights, strict=True)
        ]
        true_y = torch.cat(parts)
        true = [true_y, *torch.autograd.grad(true_y, [true_x, *(w for pair in true_weights for w in pair)], g.double())]
        for a, b in zip(ours, true, strict=True):
            torch.testing.assert_close(a.double(), b, rtol=bound, atol=bound * (1 + b.abs().max().item()))


@pytest.mark.parametrize("eps", EPS, ids=str)
@pytest.mark.parametrize("name", ["reference", pytest.param("cpu", marks=pytest.mark.compiled)])
def test_a_channel_that_does_not_vary_puts_out_the_bias_and_gets_no_gradient_of_its_root(name, eps):
    x = torch.full((2, 2, C, 4, 4), 0.75, requires_grad=True)
    weight, bias = torch.ones(C), torch.tensor([0.5, 1.0, 2.0])
    u = norm_alone(NORM_FIRE[name], x, weight, bias, eps)
    torch.testing.assert_close(u, bias.view(-1, 1, 1).expand_as(u))
    (d_x,) = torch.autograd.grad(u, x, torch.ones_like(u))
    assert torch.equal(d_x, torch.zeros_like(x))


@pytest.mark.parametrize("eps", EPS, ids=str)
@pytest.mark.parametrize("last", [True, False])
def test_norms_by_running_statistics_pass_on_the_gradient_of_the_formula(eps, last):
    for B, dtype in product((1, 2), (torch.float32, torch.float64)):
        norm = enliven(BatchNorm(C, scale=0.5, eps=eps[0], root_eps=eps[1])).to(dtype).eval()
        x, g = (lay(torch.randn(1, B, C, 4, 5, dtype=dtype), order) for order in (last, not last))
        x.requires_grad_()
        y = fold_time(norm, x)
        found = torch.autograd.grad(y, [x, norm.weight, norm.bias], g)
        slope = 0.5 / ((norm.running_var + eps[0]).sqrt() + eps[1])
        xhat = slope.view(-1, 1, 1) * (x - norm.running_mean.view(-1, 1, 1))
        torch.testing.assert_close(y, xhat * norm.weight.view(-1, 1, 1) + norm.bias.view(-1, 1, 1))
        torch.testing.assert_close(found[0], g * (slope * norm.weight).view(-1, 1, 1))
        torch.testing.assert_close(found[1], (g * xhat).sum((0, 1, 3, 4)))
        torch.testing.assert_close(found[2], g.sum((0, 1, 3, 4)))


@pytest.mark.parametrize("training", [True, False])
def test_a_norm_whose_eps_is_added_to_the_root_runs_where_pytorch_takes_no_eps_of_0(training, monkeypatch):
    """As in PyTorch 2.10, where ``F.batch_norm`` refuses it in eval, too."""
    original = torch.nn.functional.batch_norm

    def strict(*arguments, **options):
        assert arguments[-1] > 0
        return original(*arguments, **options)

    monkeypatch.setattr(torch.nn.functional, "batch_norm", strict)
    model = iso.create_model("ds_resnet8", T=2, width=4).train(training)
    assert any(isinstance(layer, BatchNorm) and layer.root_eps > 0 for layer in model.modules())
    with use_backend("reference"):
        assert model(torch.randn(2, 3, 16, 16)).isfinite().all()


def by_formula(monkeypatch):
    def batch_norm(x, weight, bias, eps, root_eps=0.0):
        return formula(x, weight, bias, eps, root_eps)

    monkeypatch.setattr("isospike.layers.norm.batch_norm", batch_norm)


@pytest.mark.parametrize("per_step", [False, True])
@pytest.mark.parametrize("topology", iso.TOPOLOGIES)
def test_gradients_of_a_network_at_batch_1_are_those_of_the_formula(topology, per_step, monkeypatch):
    for T in (1, 2):
        model = iso.create_model(f"{topology}_resnet8", T=T, width=4, num_classes=3, per_step_norm=per_step).double()
        images = torch.randn(1, 3, 16, 16, dtype=torch.float64)
        found = []
        for patch in (False, True):
            with monkeypatch.context() as patched, use_backend("reference"):
                if patch:
                    by_formula(patched)
                loss = (enliven_weights(model)(images) * torch.tensor([1.0, -2.0, 0.5])).sum()
                found.append(torch.autograd.grad(loss, list(model.parameters())))
        for ours, true in zip(*found, strict=True):
            torch.testing.assert_close(ours, true, rtol=1e-7, atol=1e-9)


def enliven_weights(model):
    """Branches that start at 0 let no gradient through."""
    for norm in model.modules():
        if isinstance(norm, BatchNorm):
            torch.nn.init.constant_(norm.weight, 0.8)
    return model


@pytest.mark.parametrize("topology", ["ms", "sew", "ds"])
def test_isometry_at_batch_1_and_one_step_is_that_of_the_formula(topology, monkeypatch):
    model = enliven_weights(iso.create_model(f"{topology}_resnet8", T=1, width=4).double())
    images = torch.randn(1, 3, 16, 16, dtype=torch.float64)
    ours = iso.measure_isometry(model, images, probes=3)
    by_formula(monkeypatch)
    true = iso.measure_isometry(model, images, probes=3)
    for unit, same in zip(ours, true, strict=True):
        assert unit.phi.value == pytest.approx(same.phi.value, rel=1e-7)
        assert unit.varphi.value == pytest.approx(same.varphi.value, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize(("eps", "root_eps"), [(0, 0), (-1e-5, 1.0), (1.0, -1e-5), (float("nan"), 0)])
def test_what_would_divide_by_zero_is_refused(eps, root_eps):
    with pytest.raises(ConfigError, match=r"^eps and root_eps of a norm are at least 0, and one of them is greater"):
        BatchNorm(3, eps=eps, root_eps=root_eps)

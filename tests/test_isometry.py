"""Block dynamical isometry: against Jacobians built entry by entry, and on every topology."""

import math

import pytest
import torch
from scipy import stats
from torch import nn

import isospike as iso
from helpers import REQUIRED, enliven
from isospike.analysis import gradient_norms, log10_product, measure_isometry, measure_isometry_of
from isospike.analysis.probes import Estimate, Probed, probe, student_t
from isospike.errors import ConfigError
from isospike.layers import Steps
from isospike.neurons import NEURONS
from isospike.residual import COMBINES, TOPOLOGIES, ResidualUnit

IMAGES = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def exact(f, x):
    """phi, varphi of ``J J^T`` with J built row by row."""
    J = torch.autograd.functional.jacobian(lambda x: f(x).flatten(), x).flatten(1)
    eigenvalues = torch.linalg.eigvalsh(J @ J.T)
    return J, eigenvalues.mean().item(), eigenvalues.var(correction=0).item()


def basis(y):
    yield from torch.eye(y.numel(), dtype=y.dtype).view(-1, *y.shape)


def small_unit(name, stride=1, **neuron):
    row = TOPOLOGIES[name]
    if neuron:
        row = iso.create_model(f"{name}_resnet8", neuron=neuron).topology
    unit = enliven(ResidualUnit(row, 3, 3, stride=stride)).double()
    x = torch.randn(3, 2, 3, 4, 4, dtype=torch.float64)
    return (lambda x: unit(x, Steps(3))), (x > 0).double() if row.stream == "spike" else x


CASES = [(name, stride, {}) for name in TOPOLOGIES for stride in (1, 2)]
CASES += [("ms", 1, {"kind": kind, **REQUIRED.get(kind, {})}) for kind in NEURONS]


@pytest.mark.parametrize(("name", "stride", "neuron"), CASES, ids=str)
def test_all_basis_vectors_as_probes_give_the_jacobian_itself(name, stride, neuron):
    """Surrogates, resets, the statistics of norms and all time steps are in it."""
    f, x = small_unit(name, stride, **neuron)
    J, phi, varphi = exact(f, x)
    m = len(J)
    probed = probe(f, x, basis)
    assert sum(probed.first) == pytest.approx(J.square().sum().item() / m, rel=1e-11)
    assert sum(probed.first) == pytest.approx(phi, rel=1e-9)
    assert sum(probed.second) - phi**2 == pytest.approx(varphi, rel=1e-9)
    assert phi > 0.01
    assert torch.equal(probed.output, f(x))


def test_many_probes_come_to_it_and_their_intervals_hold_it():
    f, x = small_unit("ms")
    _, phi, varphi = exact(f, x)
    generator = torch.Generator().manual_seed(0)

    def signs(n):
        return lambda y: (torch.randint(0, 2, y.shape, generator=generator).double() * 2 - 1 for _ in range(n))

    many = probe(f, x, signs(1500))
    assert many.phi().value == pytest.approx(phi, rel=0.02)
    assert many.varphi().value == pytest.approx(varphi, rel=0.08)
    held = [0, 0]
    means = []
    for start in range(0, 1500, 5):
        few = Probed(many.output, many.first[start : start + 5], many.second[start : start + 5])
        held[0] += few.phi().low < phi < few.phi().high
        held[1] += few.varphi().low < varphi < few.varphi().high
        means.append(few.varphi().value)
    assert held[0] > 0.9 * 300
    assert held[1] > 0.85 * 300  # few squares of a skewed quantity
    assert sum(means) / 300 == pytest.approx(many.varphi().value, rel=0.01)  # no bias from few probes


def test_estimates_by_hand():
    probed = Probed(torch.zeros(1), [1.0, 3.0], [10.0, 10.0])
    t = stats.t.ppf(0.975, 1)
    assert probed.phi() == pytest.approx((2, t * math.sqrt(2 / 2)))
    assert probed.varphi() == pytest.approx((10 - (2**2 - 2 / 2), t * math.sqrt(32 / 2)))
    assert Probed(torch.zeros(1), [2.0], [10.0]).varphi() == (6, None)


def test_quantiles_of_student():
    for freedom in (1, 2, 3, 4, 7, 15, 100):
        assert student_t(freedom) == pytest.approx(stats.t.ppf(0.975, freedom), rel=1.5e-3)


def test_the_jacobian_of_constants_and_of_the_identity():
    x = torch.randn(2, 3, 4)
    constant = Constant()
    for module, expected in ((nn.Identity(), (1, 0)), (nn.ReLU(), None), (constant, (0, 0)), (Half(), (0.5, 0.25))):
        (found,) = measure_isometry_of([module], x, probes=3)
        if expected:
            assert (found.phi.value, found.varphi.value) == expected
        else:
            assert found.phi.value == (x > 0).float().mean().item()
    constant.weight.requires_grad_(requires_grad=False)
    assert measure_isometry_of([constant], x)[0].phi == (0, 0)


class Constant(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))

    def forward(self, x):
        return self.weight * 3


class Half(nn.Module):
    """Every other number; of the rest neither value nor gradient is left."""

    def forward(self, x):
        return x * torch.tensor([1.0, 0.0, 1.0, 0.0])


@pytest.mark.parametrize("name", TOPOLOGIES)
def test_every_topology_is_measured_and_left_as_it_was(name):
    model = iso.create_model(f"{name}_resnet14", width=4, T=2, dropout=0.5).eval()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    state = torch.get_rng_state()
    units = measure_isometry(model, IMAGES, probes=2)
    norms = gradient_norms(model, IMAGES, torch.tensor([0, 1, 2, 9]))
    assert [u.name for u in units] == [*norms.inputs] == [f"stages.{s}.{n}" for s in range(3) for n in range(2)]
    assert [u.index for u in units] == [1, 2, 3, 4, 5, 6]
    assert all(math.isfinite(u.log10_phi) and u.varphi.value >= 0 for u in units)
    assert min(norms.inputs.values()) > 0
    neutral = {key for key in norms.weights if ".branch." in key} if model.topology.starts_neutral else set()
    assert {key for key, norm in norms.weights.items() if norm == 0} == neutral
    assert len(norms.weights) == sum(isinstance(m, nn.Conv2d) for m in model.modules())
    assert all(torch.equal(before[key], tensor) for key, tensor in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(m.training or m._forward_pre_hooks or m._forward_hooks for m in model.modules())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    torch.rand(1)
    assert measure_isometry(model, IMAGES, probes=2) == units
    assert measure_isometry(model, IMAGES, probes=2, seed=1) != units
    assert gradient_norms(model, IMAGES, torch.tensor([0, 1, 2, 9])) == norms


@pytest.mark.parametrize("combine", COMBINES)
def test_units_whose_outputs_are_combined_map_what_they_read_to_what_the_next_reads(combine):
    model = iso.create_model("da_nsc_resnet20", combine=combine, width=4, T=2).double()
    if combine == "learned":
        nn.init.uniform_(model.stages[1].sum.weight, 0.5, 1.5)
    stage, x = model.stages[1], torch.randn(2, 2, 4, 8, 8, dtype=torch.float64)
    maps = dict(stage.maps(Steps(2)))
    read = {}
    for unit in stage:
        unit.shared.register_forward_pre_hook(lambda m, args, unit=unit: (read.setdefault(unit, args[0]), None)[1])
    y = stage([x], Steps(2))
    for unit, made in zip(stage, [*list(read.values())[1:], y], strict=True):
        torch.testing.assert_close(maps[unit](read[unit]), made)
    units = measure_isometry(model, IMAGES.double(), probes=2)
    assert len(units) == 9
    assert (units[4].expected is None) == (combine != "sum")


def test_reach_over_stages_and_other_bodies_are_measured():
    for name, options in (
        ("da_nsc_resnet14", {"reach": "global"}),
        ("da_cns_resnet14", {"reach": "fusion"}),
        ("sew_resnet14", {"join": "iand", "per_step_norm": True, "T": 2}),
        ("sew_resnet18", {"width": 4, "stem": "cifar"}),
    ):
        model = iso.create_model(name, num_classes=3, **{"T": 2, **options})
        images = IMAGES if model.layout.total_stride <= 16 else IMAGES.repeat(1, 1, 2, 2)
        units = measure_isometry(model, images, probes=1)
        assert len(units) == len([*model.units()])
        assert units[0].phi.error is None
        assert gradient_norms(model, images, torch.tensor([0, 1, 2, 0])).loss > 0
    seven = iso.create_model("sew_7b_net", T=2)
    assert len(measure_isometry(seven, torch.rand(2, 2, 2, 128, 128).round(), probes=1)) == 7


@pytest.mark.parametrize("name", TOPOLOGIES)
@pytest.mark.parametrize("create", [iso.create_model, iso.create_ann_twin])
def test_the_theory_stands_near_the_measurement(create, name):
    """To a quarter, before training; rectifiers need no spikes, and IF neurons need all their steps."""
    options = {"tail_init": 0.5} if name in ("ms", "da_scn") else {}
    images = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    for unit in measure_isometry(create(f"{name}_resnet14", width=16, **options), images, probes=2):
        if not unit.projects:
            assert unit.phi.value == pytest.approx(unit.expected.phi, rel=0.25)


def test_a_static_image_is_a_stream_of_t_equal_steps():
    model = iso.create_model("ms_resnet8", width=4)
    clip = IMAGES.expand(3, *IMAGES.shape).contiguous()
    assert measure_isometry(model, IMAGES, T=3) == measure_isometry(model, clip)
    labels = torch.tensor([0, 1, 2, 3])
    assert gradient_norms(model, IMAGES, labels, T=3) == gradient_norms(model, clip, labels)


@pytest.mark.parametrize("name", ["ms_resnet14", "sew_resnet14", "ds_resnet14"])
def test_a_neutral_tail_is_the_identity_to_the_bit(name):
    model = iso.create_model(name, width=4, T=2, tail_init=0)
    for unit in measure_isometry(model, IMAGES):
        if not unit.projects:
            assert (unit.phi, unit.varphi) == (Estimate(1.0, 0.0), Estimate(0.0, 0.0))
            assert unit.expected == (1.0, 0.0)


def test_gradient_norms_are_those_of_a_plain_backward():
    model = iso.create_model("ms_resnet8", width=4, T=2)
    labels = torch.tensor([0, 1, 2, 3])
    found = gradient_norms(model, IMAGES, labels)
    streams = []
    model.stages[1][0].register_forward_pre_hook(lambda m, args: (args[0].retain_grad(), streams.append(args[0]))[0])
    loss = nn.functional.cross_entropy(model(IMAGES), labels)
    loss.backward()
    assert found.loss == pytest.approx(loss.item(), rel=1e-6)
    assert found.inputs["stages.1.0"] == pytest.approx(streams[0].grad.norm().item(), rel=1e-5)
    weight = model.stages[2][0].branch.conv2.weight.grad.norm().item()
    assert found.weights["stages.2.0.branch.conv2"] == pytest.approx(weight, rel=1e-5)


def test_weights_that_are_not_trained_are_left_out():
    model = iso.create_model("ms_resnet8", width=4, T=2)
    for parameter in model.parameters():
        parameter.requires_grad_(requires_grad=False)
    model.stages[1][0].branch.conv2.weight.requires_grad_()
    assert [*gradient_norms(model, IMAGES, torch.zeros(4).long()).weights] == ["stages.1.0.branch.conv2"]
    assert len(measure_isometry(model, IMAGES, probes=1)) == 3


def test_modules_of_ones_own():
    """Any modules in a row; a unit of ours among them is measured as within a network."""
    torch.manual_seed(0)
    model = iso.create_model("ms_resnet8", width=4, T=3)
    unit = model.stages[0][0]
    conv = nn.Sequential(nn.Flatten(0, 1), nn.Conv2d(4, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Dropout(0.3))
    x = torch.randn(3, 2, 4, 8, 8)
    first, second = measure_isometry_of({"unit": unit, "conv": conv.eval()}, x, probes=2)
    assert (first.name, first.expected is not None, first.adds, first.tail) == ("unit", True, True, 0.0)
    assert (second.name, second.expected, second.projects, second.tail) == ("conv", None, True, None)
    assert second.phi.value > 0
    assert not conv.training
    assert conv[2].num_batches_tracked == 0
    assert torch.equal(conv[2].running_mean, torch.zeros(8))


def test_the_product_and_its_interval():
    model = iso.create_model("vanilla_resnet14", width=4, T=2)
    units = measure_isometry(model, IMAGES)
    product = log10_product(units)
    assert product.value == pytest.approx(math.log10(math.prod(u.phi.value for u in units)))
    relative = [u.phi.error / u.phi.value for u in units]
    assert product.error == pytest.approx(math.hypot(*relative) / math.log(10))
    assert log10_product(measure_isometry(model, IMAGES, probes=1)).error is None


def test_what_cannot_be_measured_is_said():
    model = iso.create_model("ms_resnet8", width=4, T=2)
    labels = torch.zeros(4).long()
    with pytest.raises(ConfigError, match="probes must be at least 1, got 0"):
        measure_isometry(model, IMAGES, probes=0)
    with pytest.raises(ConfigError, match="images hold numbers that are not finite"):
        measure_isometry(model, IMAGES / 0)
    with pytest.raises(ConfigError, match="a Linear holds no residual units"):
        measure_isometry(nn.Linear(2, 2), IMAGES)
    with pytest.raises(ConfigError, match="the list is empty"):
        measure_isometry_of([], IMAGES)
    with pytest.raises(ConfigError, match="what 0 reads holds numbers that are not finite"):
        measure_isometry_of([nn.Identity()], IMAGES / 0)
    with pytest.raises(ConfigError, match=r"takes labels of shape \[4\], got \[3\]"):
        gradient_norms(model, IMAGES, labels[:3])
    with pytest.raises(ConfigError, match="labels of this model run from 0 to 9, got 0 to 10"):
        gradient_norms(model, IMAGES, labels + torch.tensor([0, 0, 0, 10]))
    with pytest.raises(ConfigError, match="a backbone has no loss"):
        gradient_norms(iso.create_model("ms_resnet8", num_classes=0), IMAGES, labels)
    with torch.no_grad():
        model.stages[1][0].branch.conv1.weight.fill_(torch.nan)
    with pytest.raises(ConfigError, match=r"stages\.1\.0 is not finite"):
        measure_isometry(model, IMAGES)

"""What convolutions read: promises kept on every topology, bounds by hand, and spikes alone on demand."""

import pytest
import torch

import isospike as iso
from helpers import enliven
from isospike.errors import ConfigError
from isospike.graph import promised_domains
from isospike.layers import SlotConv

IMAGES = torch.randn(3, 3, 32, 32)


def edges_of(name, **options):
    return {e.layer: e for e in iso.check_edges(enliven(iso.create_model(name, **options)), IMAGES, T=3)}


def fitting_options(name):
    """Every reach, combine and integer neuron that the row takes."""
    row = iso.TOPOLOGIES[name]
    yield {}
    yield {"neuron": {"kind": "mlf", "levels": 2}}
    if row.can_be_identity:
        yield from ({"reach": "fusion"}, {"reach": "fusion_distant", "combine": "rsqrt"}, {"reach": "global"})
        yield from ({"combine": "learned"}, {"combine": "rsqrt"}, {"neuron": {"kind": "ilif"}})
        if row.stream == "spike":
            yield {"join": "iand", "neuron": {"kind": "if"}}


CASES = [(name, options) for name in iso.TOPOLOGIES for options in fitting_options(name)]


@pytest.mark.parametrize(("name", "options"), CASES, ids=str)
def test_every_promise_is_kept(name, options):
    edges = edges_of(f"{name}_resnet14", **options)
    assert [e.layer for e in edges.values() if not e.kept] == []
    assert edges["stem.conv"].found.largest is None


@pytest.mark.parametrize("name", ["sew_resnet14", "da_cns_resnet14", "ds_resnet14", "sew_resnet18", "sew_7b_net"])
def test_bounds_of_counts_by_hand(name):
    """A stage starts at {0, ..., 2K}, its projection and its first branch, and every further unit adds K."""
    model = iso.create_model(name)
    K = model.topology.levels
    promises = {n: promised_domains(model)[m].largest for n, m in model.named_modules() if m in promised_domains(model)}
    if name == "sew_resnet18":  # a max-pool stands before its first unit
        expected = {"stages.0.0.branch.conv1": 1, "stages.0.1.branch.conv1": 2, "stages.1.0.skip.conv": 3}
    elif name == "sew_7b_net":
        expected = {f"stages.{s}.0.branch.conv1": 1 + s for s in range(7)}
    else:
        expected = {
            "stages.0.0.branch.conv1": K,
            "stages.0.1.branch.conv1": 2 * K,
            "stages.1.0.skip.conv": 3 * K,
            "stages.1.1.branch.conv1": 2 * K,
            "stages.1.1.branch.conv2": K,
            "stages.2.0.branch.conv1": 3 * K,
        }
    assert {layer: promises[layer] for layer in expected} == expected


def test_counts_reach_their_bounds():
    """Neurons that always fire: the stream holds exactly what is promised, so no bound is wider than it must be."""
    model = iso.create_model("ds_resnet14").eval()
    for norm in (m for m in model.modules() if hasattr(m, "running_var")):
        torch.nn.init.constant_(norm.bias, 100.0)
    found = iso.check_edges(model, IMAGES, T=2)
    integers = [e for e in found if e.promised.largest is not None]
    assert len(integers) == 14
    assert all(e.largest == e.promised.largest for e in integers)


def test_a_broken_promise_is_seen():
    model = enliven(iso.create_model("ms_resnet8"))
    model.stages[0][0].branch.spike2.forward = lambda x, v=None: (2 * (x > 0).float(), x[0])
    broken = [e for e in iso.check_edges(model, IMAGES) if not e.kept]
    assert [(e.layer, str(e.promised), str(e.found)) for e in broken] == [
        ("stages.0.0.branch.conv2", "binary", "integer up to 2")
    ]
    model.stages[0][0].branch.spike2.forward = lambda x, v=None: (-(x > 0).float(), x[0])
    assert [str(e.found) for e in iso.check_edges(model, IMAGES) if not e.kept] == ["integer of at most 1 with a sign"]


def test_mode_hooks_and_statistics_are_as_before():
    model = iso.create_model("ms_resnet8").train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    iso.check_edges(model, IMAGES)
    assert model.training
    assert not any(m._forward_pre_hooks for m in model.modules())
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("ms_resnet14", {"project": "spike conv norm"}),
        ("ms_resnet18", {"project": "spike conv norm", "stem": "cifar"}),
        ("da_scn_resnet14", {"project": "shared conv norm"}),
        ("da_nsc_resnet14", {"project": "shared conv"}),
        ("da_nsc_resnet14", {"project": "norm spike conv"}),
        ("vanilla_resnet14", {}),
        ("sew_resnet14", {"join": "iand"}),
    ],
    ids=str,
)
def test_networks_that_run_on_spikes_alone(name, options):
    real = {layer for layer, edge in edges_of(name, **options).items() if str(edge.promised) != "binary"}
    assert real == {"stem.conv", "head.fc"}


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("ds_resnet8", {}),
        ("sew_resnet14", {}),
        ("ms_resnet8", {"neuron": {"kind": "ilif"}, "project": "spike conv norm"}),
        ("da_cns_resnet8", {"reach": "fusion"}),
    ],
    ids=str,
)
def test_counts_run_as_binary_slots(name, options):
    model = enliven(iso.create_model(name, **options)).double().eval()
    expanded = iso.spike_driven(model)
    images = IMAGES.double()
    torch.testing.assert_close(expanded(images, T=3), model(images, T=3))
    edges = iso.check_edges(expanded, images, T=3)
    assert {str(e.found) for e in edges} == {"real", "binary"}
    assert {e.layer for e in edges if str(e.found) == "real"} == {"stem.conv", "head.fc"}
    assert any(isinstance(m, SlotConv) for m in expanded.modules())
    assert not any(isinstance(m, SlotConv) for m in model.modules())


def test_slots_by_hand():
    x = torch.tensor([[0.0, 1, 3, 2]])
    slots = iso.binary_slots(x, 3)
    assert slots.tolist() == [[[0, 1, 1, 1]], [[0, 0, 1, 1]], [[0, 0, 1, 0]]]
    assert torch.equal(slots.sum(0), x)


def test_a_bias_counts_once_and_dyadic_sums_are_exact():
    conv = torch.nn.Conv2d(4, 5, 3, padding=1)
    with torch.no_grad():
        for parameter in conv.parameters():
            parameter.copy_((parameter * 64).round() / 64)
    x = torch.randint(0, 5, (2, 4, 6, 6)).float()
    assert torch.equal(SlotConv(conv, 4)(x), conv(x))


def test_images_that_are_not_finite_are_refused():
    with pytest.raises(ConfigError, match="not finite"):
        iso.check_edges(iso.create_model("ms_resnet8"), IMAGES / 0)

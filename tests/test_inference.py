"""A compiled network gives what the model gives in eval: every row, neuron, join, body and link."""

import pytest
import torch
from torch import nn

import isospike as iso
from helpers import REQUIRED, enliven
from isospike.errors import ConfigError, ShapeError
from isospike.graph import Between, Call, Conv, Value, accumulate, record_network
from isospike.layers.fold import FoldedNeuron
from isospike.neurons import NEURONS
from isospike.residual import COMBINES, JOINS, REACHES, REAL, Join

ROWS = [(f"{topology}_resnet8", {}) for topology in iso.TOPOLOGIES]
NEURON_KINDS = [("ms_resnet8", {"neuron": {"kind": kind, **REQUIRED.get(kind, {})}}) for kind in NEURONS]
JOINED = [("sew_resnet14", {"join": join}) for join in JOINS]
REACHING = [(f"da_{order}_resnet8", {"reach": reach}) for order in ("cns", "scn") for reach in REACHES]
COMBINING = [("da_nsc_resnet14", {"combine": combine}) for combine in COMBINES]
OTHERS = [
    ("ms_resnet8", {"per_step_norm": True}),
    ("da_ncs_resnet8", {"per_step_norm": True}),
    ("vanilla_resnet8", {"identity": "norm"}),
    ("da_scn_resnet14", {"project": "shared conv norm"}),
    ("ms_resnet8", {"project": "spike conv norm"}),
    ("ms_resnet18", {"width": 8}),
    ("sew_resnet18", {"width": 8}),
    ("ms_resnet50", {"width": 4}),
    ("ms_resnet104", {"width": 4}),
    ("vanilla_resnet19", {"width": 8}),
    ("sew_7b_net", {}),
]
NETWORKS = ROWS + NEURON_KINDS + JOINED + REACHING + COMBINING + OTHERS


def trained(name, **options):
    return enliven(iso.create_model(name, T=2, **options)).eval()


def inputs(model):
    """Images, and a sequence; the nets for events halve their map seven times."""
    size = 128 if model.layout.pool_stages else 32
    images = torch.rand(1 if size == 128 else 2, model.in_channels, size, size)
    return images, torch.rand(model.T, 1, model.in_channels, size, size)


@pytest.mark.parametrize(("name", "options"), NETWORKS, ids=str)
def test_every_network_in_float64_up_to_rounding(name, options):
    """Where rounding is 1e-15, no potential is as near to its threshold, so nothing hides behind a tolerance."""
    model = trained(name, **options).double()
    net = model.compile_for_inference()
    for x in inputs(model):
        x = x.double()
        with torch.no_grad():
            expected = model(x, per_step=True)
        scale = expected.abs().max().item()
        torch.testing.assert_close(net(x, per_step=True), expected, rtol=0, atol=1e-10 * scale)
        torch.testing.assert_close(net(x), expected.mean(0), rtol=0, atol=1e-10 * scale)


@pytest.mark.parametrize(("name", "options"), NETWORKS, ids=str)
def test_every_network_in_float32_is_the_same_compiled_and_eager(name, options):
    """The same program on the same folded weights, by one pass in C and by PyTorch: equal but for spikes that sums in
    another order decide; of the logits of all steps nearly all agree."""
    model = trained(name, **options)
    (x, _) = inputs(model)
    with iso.use_backend("reference"):
        eager = model.compile_for_inference()(x, per_step=True)
    with torch.no_grad():
        truth = model(x, per_step=True)
    scale = truth.abs().max().item()
    for logits in (eager, model.compile_for_inference()(x, per_step=True)):
        near = ((logits - truth).abs() <= 1e-3 * scale).double().mean()
        assert near >= 0.5
        torch.testing.assert_close(logits, truth, rtol=0, atol=0.25 * scale)


@pytest.mark.parametrize(("name", "options"), ROWS + JOINED + REACHING, ids=str)
def test_ann_twins_are_equal_in_float32(name, options):
    if options.get("join") in ("and", "iand"):
        pytest.raises(ConfigError, iso.create_ann_twin, name, **options)
        return
    twin = enliven(iso.create_ann_twin(name, **options)).eval()
    x = torch.rand(3, 3, 32, 32)
    torch.testing.assert_close(twin.compile_for_inference()(x), twin(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("name", "options"), NETWORKS, ids=str)
def test_every_layer_with_weights_reads_what_the_program_promises(name, options):
    """Sums over learned weights and factors are no integers, and nothing else hides behind "real numbers"."""
    model = trained(name, **options)
    edges = iso.check_edges(model, inputs(model)[0])
    assert [edge.layer for edge in edges if not edge.kept] == []
    assert {edge.layer for edge in edges} == {
        name for name, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)
    }


def test_between_two_convolutions_of_an_ms_unit_stands_one_pass():
    model = trained("ms_resnet20")
    convs = sum(isinstance(m, nn.Conv2d) for m in model.modules())
    pools = sum(isinstance(m, nn.AvgPool2d) for m in model.modules())
    neurons = sum(isinstance(m, iso.Neuron) for m in model.modules())
    head = 2  # the global pool and the classifier
    assert len(model.compile_for_inference()._operations) == convs + pools + neurons + head


def test_a_layer_without_a_faster_form_runs_as_it_is():
    model = trained("da_nsc_resnet8").double()
    (unit, *_) = model.units()
    folded = FoldedNeuron(unit.branch.norm1, unit.branch.spike1)
    del unit.branch.norm1
    unit.branch.spike1 = folded
    program = record_network(model).operations
    *calls, pool, classifier = (op.module for op in program if isinstance(op, Call))
    assert (calls, pool, classifier) == ([folded], model.head.pool, model.head.fc)
    x = torch.rand(2, 3, 32, 32).double()
    torch.testing.assert_close(model.compile_for_inference()(x), model(x))


def test_counts_in_slots_are_read_as_counts():
    model = trained("ds_resnet8").double()
    expanded = iso.spike_driven(model)
    x = torch.rand(2, 3, 32, 32).double()
    torch.testing.assert_close(expanded.compile_for_inference()(x), expanded(x))


def test_it_is_a_copy_without_gradient_whose_result_is_an_ordinary_tensor():
    model = trained("ms_resnet8")
    x = torch.rand(2, 3, 32, 32)
    net = model.compile_for_inference()
    before = net(x)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert torch.equal(net(x), before)
    for result in (before, net(x, per_step=True)):
        assert not result.requires_grad
        result.add_(1)
    nn.Parameter(torch.ones(10)).mul(before).sum().backward()


@pytest.mark.parametrize("T", [1, 3, 7])
def test_steps_and_sizes_are_those_asked_for(T):
    model = trained("sew_resnet8").double()
    net = model.compile_for_inference()
    for size in (32, 27, 32):
        x = torch.rand(3, 3, size, size).double()
        torch.testing.assert_close(net(x, T=T, per_step=True), model(x, T=T, per_step=True))


def test_samples_in_groups_give_what_all_together_give(monkeypatch):
    model = trained("ms_resnet8").double()
    net, x = model.compile_for_inference(), torch.rand(5, 3, 32, 32).double()
    expected = net(x)
    monkeypatch.setattr(type(net), "_samples", lambda self, x, T: 2)
    torch.testing.assert_close(net(x), expected)


def test_what_does_not_fit_is_refused():
    model = trained("ms_resnet8", per_step_norm=True)
    net = model.compile_for_inference()
    with pytest.raises(ShapeError, match=r"the model takes \[B, 3, H, W\]"):
        net(torch.rand(2, 1, 32, 32))
    with pytest.raises(ShapeError, match="the norms of this model know 2 time steps"):
        net(torch.rand(2, 3, 32, 32), T=4)
    with pytest.raises(ShapeError, match="compiled for torch.float32 on cpu, and the input is torch.float64 on cpu"):
        net(torch.rand(2, 3, 32, 32).double())
    with pytest.raises(ConfigError, match="precision must be one of float32, int8, got 'int4'"):
        model.compile_for_inference("int4")
    with pytest.raises(ConfigError, match="'int8' is for float32 models on the CPU, this one is torch.float64 on cpu"):
        model.double().compile_for_inference("int8")


def test_a_join_with_other_arithmetic_is_not_guessed(monkeypatch):
    model = trained("sew_resnet8")
    (unit, *_) = model.units()
    unit.join = Join("max", torch.maximum, neutral=0.0, binary=False)
    with pytest.raises(ConfigError, match="join 'max' is not made of"):
        model.compile_for_inference()


@pytest.mark.parametrize("read_again", [False, True])
def test_a_sum_takes_the_memory_of_a_map_only_where_nothing_reads_it_after(read_again):
    layer = nn.Conv2d(4, 4, 1)
    x, stream, branch, total, out = (Value(number, 4, REAL) for number in range(5))
    program = [Between(x, stream), Conv(stream, branch, layer), Between(branch, total, y=stream)]
    program.append(Conv(stream if read_again else total, out, layer))
    convs = [
        op for op in accumulate(program, [out], {stream, branch, total, out}, lambda conv: True) if isinstance(op, Conv)
    ]
    assert [conv.onto for conv in convs] == [None if read_again else stream, None]

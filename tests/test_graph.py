"""The program of a network is the network: run as it is, rewritten for training, written as text, recorded anew."""

import json
from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from torch import nn

import isospike as iso
from helpers import REQUIRED, enliven
from isospike.errors import ConfigError
from isospike.fused_training import TrainingPass
from isospike.graph import (
    Between,
    Conv,
    natural_segments,
    program_from_json,
    program_to_json,
    promised_domains,
    record_network,
)
from isospike.layers import MEMORY, BatchNorm, Chain, Steps
from isospike.models import ProgramNet
from isospike.neurons import NEURONS
from isospike.residual import JOINS, REACHES, ResidualUnit, Stage

ROWS = [(f"{topology}_resnet8", {}) for topology in iso.TOPOLOGIES]
KINDS = [("ms_resnet8", {"neuron": {"kind": kind, **REQUIRED.get(kind, {})}}) for kind in NEURONS]
LINKED = [("da_cns_resnet8", {"reach": reach}) for reach in REACHES]
JOINED = [("sew_resnet8", {"join": join}) for join in JOINS]
OTHERS = [
    ("ms_resnet8", {"per_step_norm": True}),
    ("vanilla_resnet19", {"width": 4}),
    ("da_nsc_resnet14", {"combine": "rsqrt"}),
    ("ms_resnet8", {"neuron": {"kind": "lif", "tau": 2.0}}),
]
NETWORKS = ROWS + KINDS + LINKED + JOINED + OTHERS
LEARNED = [("da_nsc_resnet14", {"combine": "learned"}), ("da_cns_resnet8", {"reach": "fusion", "combine": "learned"})]


def network(name, **options):
    return enliven(iso.create_model(name, T=2, num_classes=5, **options)).double()


def images(model, batch=2, size=16):
    return torch.rand(batch, model.in_channels, size, size).double()


def without_row(model):
    """The same modules behind the program alone."""
    program = record_network(model)
    names = {module: name for name, module in model.named_modules()}
    text = json.loads(json.dumps(program_to_json(program, names)))
    program, modules = program_from_json(text)
    net = ProgramNet(program, modules, T=model.T, least_size=model.least_size).double()
    net.load_state_dict(model.state_dict())
    return net.train(model.training)


def equations(model, x, T):
    """Logits of every step by the modules themselves, in whatever mode they are."""
    steps = Steps(T)
    return steps.unroll(model.decode(model.encode(x.unsqueeze(0), steps), steps))


def gradients(model, logits):
    model.zero_grad()
    logits.square().sum().backward()
    return {name: p.grad for name, p in model.named_parameters()}


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(
            found[name], expected[name], rtol=1e-9, atol=1e-11, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.parametrize(("name", "options"), NETWORKS, ids=str)
def test_a_program_read_from_text_is_the_network(name, options):
    model = network(name, **options).eval()
    net, x = without_row(model), images(model)
    assert torch.equal(net(x, per_step=True), model(x, per_step=True))
    clip = torch.rand(2, *x.shape).double()
    assert torch.equal(net(clip), model(clip))
    state = ours = None
    for x_t in clip:
        logits, state = net.step(x_t, state)
        expected, ours = model.step(x_t, ours)
        assert torch.equal(logits, expected)
    torch.testing.assert_close(net.compile_for_inference()(x), model(x))


@pytest.mark.parametrize(("name", "options"), NETWORKS + LEARNED, ids=str)
def test_training_runs_the_equations_of_the_modules(name, options):
    """Logits, gradients and running statistics: of the rewritten program, and of every module one after the other."""
    model = network(name, **options).train()
    other, x = deepcopy(model), images(model)
    logits, expected = model(x, per_step=True), equations(other, x, model.T)
    torch.testing.assert_close(logits, expected, rtol=1e-10, atol=1e-12)
    assert_same(gradients(model, logits), gradients(other, expected))
    assert_same(dict(model.named_buffers()), dict(other.named_buffers()))


@pytest.mark.parametrize("memory", MEMORY)
@pytest.mark.parametrize(("name", "options"), [("ms_resnet20", {}), ("da_cns_resnet14", {"reach": "global"})], ids=str)
def test_a_network_without_a_row_trains_like_one_that_has_it(name, options, memory):
    model = network(name, **options).train()
    net, x = without_row(model), images(model)
    net.memory = model.memory = memory
    logits, expected = net(x), model(x)
    assert torch.equal(logits, expected)
    assert_same(gradients(net, logits), gradients(model, expected))
    assert_same(dict(net.named_buffers()), dict(model.named_buffers()))


def replace_a_neuron(model):
    model.stages[0][0].branch.spike1 = iso.neurons.LIF(decay=0.5, v_threshold=0.3)


def replace_a_norm(model):
    model.stages[1][0].branch.norm1 = enliven(BatchNorm(32)).double()


def freeze_a_norm(model):
    model.stages[0][0].branch.norm2.eval()


def change_a_join(model):
    model.stages[0][0].join = iso.residual.join.Join("difference", lambda b, s: s + b * -1.0, neutral=0, binary=False)


class Silent(ResidualUnit):
    """A unit of one's own."""

    def __init__(self):
        nn.Module.__init__(self)

    def forward(self, x, steps):
        return steps.unroll(0.5 * x)


def own_unit(model):
    model.stages[0].add_module("0", Silent())


def own_neuron(model):
    neuron = model.stages[0][0].branch.spike2
    neuron.forward = lambda x, v=None: (x.relu(), x[0])


def own_join(model):
    model.stages[0][0].join = iso.residual.join.Join("max", torch.maximum, neutral=0, binary=False)


def hook_on_a_layer(model):
    model.stages[0][0].branch.conv1.register_forward_hook(lambda m, a, out: out * 0.5)


def hook_on_a_neuron(model):
    model.stages[0][0].branch.spike1.register_forward_hook(lambda m, a, out: (out[0] * 0.5, out[1]))


def hook_on_a_unit(model):
    model.stages[0][0].register_forward_hook(lambda m, a, out: out * 0.5)


def hook_on_a_stage(model):
    model.stages[0].register_forward_hook(lambda m, a, out: out * 0.5)


def hook_on_a_chain(model):
    model.stages[0][0].branch.register_forward_pre_hook(lambda m, a: (a[0] * 0.5, *a[1:]))


def backward_hook(model):
    model.stages[0][0].branch.norm1.register_full_backward_hook(lambda m, g_in, g_out: (g_in[0] * 0.5,))


def new_classifier(model):
    model.reset_classifier(3)


CHANGES = [
    replace_a_neuron, replace_a_norm, freeze_a_norm, change_a_join, own_unit, own_neuron, own_join, hook_on_a_layer,
    hook_on_a_neuron, hook_on_a_unit, hook_on_a_stage, hook_on_a_chain, backward_hook, new_classifier,
]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_network_that_changed_is_recorded_anew(change):
    """After a forward in training has recorded it."""
    torch.manual_seed(0)
    model = network("ms_resnet8").train()
    x = images(model)
    before = gradients(model, model(x))
    change(model)
    other = deepcopy(model)
    if change is own_unit:  # a ``forward`` that is asked again after the copy
        assert isinstance(other.stages[0][0], Silent)
    logits = model(x, per_step=True)
    expected = equations(other, x, model.T)
    torch.testing.assert_close(logits, expected, rtol=1e-10, atol=1e-12)
    after = gradients(model, logits)
    assert_same(after, gradients(other, expected))
    shared = [name for name in before if name in after and before[name].shape == after[name].shape]
    assert any(not torch.equal(before[name], after[name]) for name in shared)


def test_a_factor_that_changes_is_taken_off_again_as_it_is_now():
    model = network("da_nsc_resnet14", combine="mean").train()
    scale, x = model.stages[0].sum.scales[1], images(model)
    for factor in (scale.factor, 2.0, 3.0):
        scale.factor = factor
        other = deepcopy(model)
        torch.testing.assert_close(model(x, per_step=True), equations(other, x, model.T), rtol=1e-10, atol=1e-12)


def test_hooks_change_no_promise_and_no_count():
    """As while a network is watched: every unit has one."""
    model = iso.create_model("ms_resnet8", num_classes=5).eval()
    x = images(model).float()
    before, energy = promised_domains(model), iso.measure_energy(model, x)
    with iso.watch(model):
        assert promised_domains(model) == before
        assert iso.measure_energy(model, x).work.layers == energy.work.layers
    assert len(before) == sum(isinstance(m, nn.Conv2d | nn.Linear) for m in model.modules())


def test_of_layers_inside_a_unit_of_ones_own_nothing_is_promised():
    model = iso.create_model("ms_resnet8")
    unit = model.stages[1][0]
    unit.forward = lambda x, steps: ResidualUnit.forward(unit, x, steps)
    promises = promised_domains(model)
    assert {promises[m].largest for m in unit.modules() if isinstance(m, nn.Conv2d)} == {None}
    assert promises[model.stages[0][0].branch.conv1].largest == 1


def test_an_own_join_leaves_the_rest_of_the_network_to_the_rewritten_program():
    model = network("sew_resnet8").train()
    own_join(model)
    joins = [op.join for op in record_network(model).operations if isinstance(op, Between) and op.z]
    assert [join.name for join in joins] == ["max"]
    (cut,) = TrainingPass(record_network(model), "fast").cuts
    assert len(cut.operations) == len(TrainingPass(record_network(network("sew_resnet8")), "fast").cuts[0].operations)
    with pytest.raises(ConfigError, match="join 'max' cannot be written into a program"):
        without_row(model)


def test_what_did_not_change_is_not_recorded_again(monkeypatch):
    model = network("ms_resnet8").train()
    recorded = []
    monkeypatch.setattr(
        "isospike.models.network.TrainingPass",
        lambda *a, made=iso.fused_training.TrainingPass, **options: recorded.append(1) or made(*a, **options),
    )
    for _ in range(3):
        model(images(model)).sum().backward()
        with torch.no_grad():
            model.stages[0][0].branch.conv1.weight.mul_(0.5)
    model.eval()(images(model))
    model.train()(images(model))
    assert len(recorded) == 1
    model.memory = "lean"
    model(images(model))
    model.forward_features(images(model))
    assert len(recorded) == 3


class Squared(iso.SpikingResNet):
    """A model of one's own that does to a map what no program says."""

    def decode(self, current, steps):
        return super().decode(current, steps).square()


def squared():
    model = network("ms_resnet8").train()
    model.__class__ = Squared
    return model


def test_a_network_that_no_program_says_is_not_tried_again_at_every_step(monkeypatch):
    model = squared()
    tried = []
    monkeypatch.setattr("isospike.models.network.record", lambda *a, do=iso.graph.record: tried.append(1) or do(*a))
    for _ in range(3):
        model(images(model))
    assert len(tried) == 1


def test_a_network_that_no_program_says_trains_by_its_modules_and_says_what_that_rules_out():
    model = squared()
    x = images(model)
    assert torch.equal(model(x, per_step=True), equations(model, x, model.T))
    model.memory = "lean"
    with pytest.raises(
        ConfigError, match="memory='lean' cuts the program of a network, so take memory='fast': this net"
    ):
        model(x)
    with pytest.raises(ConfigError, match="cannot be written down as a program: 'Symbol' object has no attribute 'squ"):
        model.compile_for_inference()


def test_a_copy_trains_its_own_weights():
    model = network("ms_resnet8").train()
    x = images(model)
    model(x)
    copy = deepcopy(model)
    copy(x).sum().backward()
    assert all(p.grad is None for p in model.parameters())
    assert all(p.grad is not None for p in copy.parameters())


def test_a_stage_that_a_hook_sees_is_one_operation_and_one_segment():
    """It reads the list of all outputs so far; the other stages are rewritten as ever."""
    model = network("da_cns_resnet8", reach="global").train()
    model.stages[1].register_forward_hook(lambda m, a, out: out * 0.5)
    program = record_network(model)
    ((position, call),) = ((n, op) for n, op in enumerate(program.operations) if getattr(op, "several", None))
    assert call.module is model.stages[1]
    assert len(call.several) == 2  # the opening's and the first stage's
    assert call.several[-1] == call.x
    assert call.out.channels == 32
    assert (range(position, position + 1),) in program.segments


@pytest.mark.parametrize("memory", MEMORY)
def test_a_hook_on_a_stage_leaves_every_mode_of_memory(memory):
    model = network("da_cns_resnet14", reach="global").train()
    for stage in (0, 2):
        model.stages[stage].register_forward_hook(lambda m, a, out: out * 0.5)
    model.memory = memory
    other, x = deepcopy(model), images(model)
    logits, expected = model(x, per_step=True), equations(other, x, model.T)
    torch.testing.assert_close(logits, expected, rtol=1e-10, atol=1e-12)
    assert_same(gradients(model, logits), gradients(other, expected))
    assert_same(dict(model.named_buffers()), dict(other.named_buffers()))


@pytest.mark.parametrize("kind", [Chain, ResidualUnit, Stage])
def test_a_compiled_network_calls_what_a_hook_sees(kind):
    model = network("da_cns_resnet8", reach="global").eval()
    *_, module = (m for m in model.modules() if isinstance(m, kind) and len(list(m.children())) > 1)
    module.register_forward_hook(lambda m, a, out: out * 0.5)
    x = images(model)
    torch.testing.assert_close(model.compile_for_inference()(x), model(x))


def with_module(text, name, **options):
    return text | {"modules": text["modules"] | {name: text["modules"].get(name, {}) | options}}


def with_operation(text, key, **parts):
    """The last operation with this key, changed."""
    place = max(n for n, op in enumerate(text["operations"]) if key in op)
    before, op, behind = text["operations"][:place], text["operations"][place], text["operations"][place + 1 :]
    return text | {"operations": [*before, op | parts, *behind]}


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda t: t | {"version": 7}, "version 7 cannot be read: this release reads 1"),
        (lambda t: t | {"operations": t["operations"][1:]}, "reads map 1 before it is written"),
        (lambda t: t | {"operations": [t["operations"][0], *t["operations"]]}, "writes map 1 twice"),
        (lambda t: t | {"results": [9999]}, "this is no program: IndexError"),
        (lambda t: {k: v for k, v in t.items() if k != "values"}, "this is no program: KeyError: 'values'"),
        (lambda t: t | {"modules": {"stem.conv": {"kind": "cnov"}}}, "unknown kind of module 'cnov'; nearest: conv"),
        (lambda t: t | {"modules": {"stem.conv": {"kind": "linear", "width": 3}}}, "'linear' 'width'"),
        (lambda t: t | {"modules": []}, "this is no program: AttributeError"),
        (lambda t: with_module(t, "stem.conv", stride=[1.5, 1]), r"the stride of a module 'conv' cannot be \(1.5, 1\)"),
        (lambda t: with_module(t, "stem.conv", stride=[2**40, 1]), "the stride of a module 'conv' cannot be"),
        (lambda t: with_module(t, "stem.norm", eps=[]), r"the eps of a module 'norm' cannot be \(\)"),
        (lambda t: with_module(t, "stem.conv", bias="yes"), "the bias of a module 'conv' cannot be 'yes'"),
        (lambda t: with_module(t, "stem.conv", in_channels=4), "one of 3 channels, by a Conv2d that reads 4"),
        (lambda t: with_module(t, "stem.conv", out_channels=4), "has other channels than its layer puts out"),
        (lambda t: with_module(t, "stem.norm", num_features=4), "one of 16 channels, by a BatchNorm that reads 4"),
        (lambda t: with_module(t, "odd", kind="identity"), "no operation of a program names its module 'odd'"),
        (lambda t: with_operation(t, "neuron", neuron=0.5), "made by 0.5 in the place of a neuron"),
        (lambda t: with_operation(t, "neuron", x_affine="stem.conv"), "by a Conv2d in the place of a norm or a"),
        (
            lambda t: with_operation(t, "neuron", z=1),
            "by None in the place of a join of two maps, one of: add, and, iand",
        ),
        (lambda t: with_operation(t, "neuron", z=0, join="add"), "made of maps of 64 and of 3 channels"),
        (lambda t: with_operation(t, "module", timed=True), "a layer that is called in the other way"),
    ],
)
def test_text_that_is_no_program_is_refused(damage, message):
    model = network("ms_resnet8")
    text = program_to_json(record_network(model), {m: name for name, m in model.named_modules()})
    with pytest.raises(ConfigError, match=message):
        program_from_json(damage(text))


def test_a_module_that_no_kind_writes_is_refused():
    model = network("ms_resnet8")
    model.head.pool = nn.LPPool2d(2, 16)
    with pytest.raises(ConfigError, match="a LPPool2d cannot be written into a program: there are kinds for conv, "):
        without_row(model)


def test_the_program_of_an_ms_unit_by_hand():
    """``x + norm(conv(spike(norm(conv(spike(x))))))``."""
    unit = iso.create_model("ms_resnet8").stages[0][0]
    program = iso.graph.record(lambda x, steps: [steps.run(unit, x)], 16)
    read = [(type(op).__name__, op.x.number, op.out.number) for op in program.operations]
    assert read == [
        ("Between", 0, 1), ("Conv", 1, 2), ("Between", 2, 3), ("Between", 3, 4), ("Conv", 4, 5), ("Between", 5, 6),
        ("Between", 6, 7),
    ]  # fmt: skip
    *_, total = program.operations
    assert isinstance(total, Between)
    assert total.y == program.input
    assert [op.out.domain.largest for op in program.operations] == [1, None, None, 1, None, None, None]


def test_segments_that_nobody_noted_are_the_stem_and_the_units():
    model = iso.create_model("ms_resnet20")
    program = replace(record_network(model), segments=())
    found = natural_segments(program)
    convs = [sum(isinstance(op, Conv) for op in program.operations[s.start : s.stop]) for s in found]
    assert convs == [1, 2, 2, 2, 3, 2, 2, 3, 2, 2]  # those of a projection as well
    cuts = TrainingPass(program, "lean").cuts
    assert sum(cut.recomputes for cut in cuts) == 10
    assert not any(cut.recomputes for cut in TrainingPass(program, "fast").cuts)


def test_a_module_that_takes_the_place_of_another_runs_in_its_place(tmp_path):
    model = network("ms_resnet8").eval()
    net, x = without_row(model), images(model)
    before = net(x)
    for each in (model, net):
        each.stages.get_submodule("0.0").branch.spike1 = iso.neurons.LIF(decay=0.5, v_threshold=0.3)
    assert torch.equal(net(x), model(x))
    assert not torch.equal(net(x), before)
    again = ProgramNet.from_json(json.loads(json.dumps(net.as_json()))).double().eval()
    again.load_state_dict(net.state_dict())
    assert torch.equal(again(x), net(x))
    assert torch.equal(deepcopy(net)(x), net(x))
    torch.testing.assert_close(net.compile_for_inference()(x), net(x))


def test_segments_are_the_units_of_a_stage():
    program = record_network(iso.create_model("da_cns_resnet14", reach="global"))
    assert [len(segments) for segments in program.segments] == [2, 1, 1, 1, 1]  # linked behind the first unit
    program = record_network(iso.create_model("ms_resnet20"))
    assert [len(segments) for segments in program.segments] == [3, 3, 3]
    ends = [segment for segments in program.segments for segment in segments]
    assert all(segment.stop > segment.start for segment in ends)

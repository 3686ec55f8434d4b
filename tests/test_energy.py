"""Operations counted by brute force, energies of the literature, and both modes alike."""

import json
from dataclasses import asdict

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import isospike as iso
from helpers import enliven
from isospike.analysis import ENERGY_TABLES, OperationCounter, measure_energy, nominal_counts
from isospike.analysis.energy import layer_mj, measured_counts, membrane_mj, memory_mj
from isospike.analysis.instrument import sum_over_batch
from isospike.analysis.operations import LayerWork, Work, _Count, group_of, times_read
from isospike.errors import ConfigError, UnknownName
from isospike.models import Domain, model_card
from isospike.residual import BINARY, REAL

FLOAT32 = ENERGY_TABLES["45nm_float32"]
IMAGES = torch.randn(3, 3, 32, 32)


def by_brute_force(x, conv):
    """Non-zero inputs and their values over all kernel positions that read them, once per output channel."""
    if isinstance(conv, nn.Linear):
        return float((x != 0).sum() * len(conv.weight)), float(x.sum() * len(conv.weight))
    shape = {"kernel_size": conv.kernel_size, "stride": conv.stride, "padding": conv.padding, "dilation": conv.dilation}
    read = F.unfold(x, **shape)  # zeros in the padding
    each = len(conv.weight) / conv.groups
    return float((read != 0).sum()) * each, float(read.sum()) * each


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(2, 3, 3, padding=1),
        nn.Conv2d(2, 3, 3, stride=2, padding=1),
        nn.Conv2d(2, 3, 1, stride=2),
        nn.Conv2d(2, 4, 7, stride=2, padding=3),
        nn.Conv2d(2, 4, (3, 1), stride=(1, 2), padding=(0, 1), dilation=(2, 1), groups=2),
        nn.Linear(2, 5),
    ],
    ids=str,
)
@pytest.mark.parametrize("reads", [BINARY, Domain(3), REAL], ids=str)
def test_operations_by_brute_force(layer, reads):
    x = torch.randint(0, 4, (4, 2, 9, 7)).float()
    x = x.clamp(max=1) if reads == BINARY else x - 1.5 * (x == 2) if reads == REAL else x
    x = x.mean((-2, -1)).round() if isinstance(layer, nn.Linear) else x
    count = _Count(layer, reads)
    for part in x.split([3, 1]):
        count.add(part, layer(part), None)
    work = count.result("layer", samples=2)
    operations, graded = by_brute_force(x, layer)
    assert work.operations == operations / 2
    assert (work.macs > 0, work.acs > 0) == (reads == REAL, reads != REAL)
    assert work.runs == 2
    if reads != REAL:
        assert work.graded_acs == graded / 2
    ones = torch.ones_like(x)
    assert work.inside == by_brute_force(ones, layer)[0] / 2
    with FlopCounterMode(display=False) as flops:
        layer(x)
    assert work.dense == flops.get_total_flops() / 2 / 2


def test_one_spike_in_the_middle_and_one_in_the_corner():
    """A spike is read by 9 outputs, in the corner by 4, behind stride 2 by 4 or by 1 as its place is odd or even."""
    assert times_read(4, kernel=3, stride=1, padding=1, dilation=1, outputs=4).tolist() == [2, 3, 3, 2]
    assert times_read(4, kernel=3, stride=2, padding=1, dilation=1, outputs=2).tolist() == [1, 2, 1, 1]
    assert times_read(4, kernel=1, stride=2, padding=0, dilation=1, outputs=2).tolist() == [1, 0, 1, 0]
    x = torch.zeros(1, 1, 4, 4)
    x[0, 0, 1, 1] = x[0, 0, 0, 0] = 1
    count = _Count(nn.Conv2d(1, 10, 3, padding=1), BINARY)
    count.add(x, torch.empty(1, 10, 4, 4), None)
    assert count.result("", 1).acs == 10 * (9 + 4)


@pytest.mark.parametrize(
    "x", [torch.randint(0, 3, (5, 4, 3, 2)), torch.randint(0, 3, (5, 4)), torch.randint(0, 3, (5, 4, 3))], ids=len
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_sums_over_the_batch(x, dtype):
    x = x.to(dtype)
    assert torch.equal(sum_over_batch(x).double(), x.double().sum(0))
    if x.dim() == 4:
        x = x.contiguous(memory_format=torch.channels_last)
        assert torch.equal(sum_over_batch(x).double(), x.double().sum(0))


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("ms_resnet18", {}, (8.40, 2.08, 2.94, 5.65)),
        ("ms_resnet34", {}, (16.91, 3.75, 4.60, 7.32)),
        ("ms_resnet104", {"T": 5}, (57.95, 14.84, 15.55, 32.97)),
        ("ms_resnet104", {"T": 5, "input_size": 288}, (95.79, 24.53, 25.70, 54.49)),
    ],
    ids=str,
)
def test_the_three_ways_at_one_spike_per_neuron(name, options, expected):
    """The papers' counting, on the cards: no rate was measured here."""
    found = nominal_counts(model_card(name, **options)).mj(FLOAT32)
    assert tuple(round(value, 2) for value in found.values()) == expected


def test_nominal_projections_of_spikes_are_additions_in_every_way():
    card = model_card("ms_resnet18")
    found = nominal_counts(card, spikes_per_neuron=2.0, real_projections=False).mj(FLOAT32)
    assert found["reals_as_ac"] == found["stem_once"]
    spikes = 2 * (card.unit_macs + card.projection_macs + card.head_macs)
    assert found["stem_once"] == pytest.approx((card.stem_macs * 4.6 + spikes * 0.9) * 1e-9)


def test_tables_are_whole_and_a_wrong_name_is_answered_with_the_nearest():
    assert (round(FLOAT32.mac_pj, 6), FLOAT32.ac_pj) == (4.6, 0.9)
    for name in ENERGY_TABLES:
        table = ENERGY_TABLES[name]
        assert "Horowitz 2014" in table.source
        assert 0 < table.ac_pj < table.mac_pj < table.memory_pj
    with pytest.raises(UnknownName, match="unknown table of energies '45nm_float23'; nearest: 45nm_float32"):
        measure_energy(iso.create_model("ms_resnet8"), IMAGES, table="45nm_float23")


CASES = [("ms_resnet8", {}), ("vanilla_resnet8", {}), ("sew_resnet14", {}), ("ds_resnet8", {}), ("da_nsc_resnet8", {}),
         ("ms_resnet8", {"neuron": {"kind": "ilif"}}), ("da_cns_resnet14", {"reach": "fusion"}),
         ("da_scn_resnet14", {"combine": "rsqrt"}), ("sew_7b_net", {})]  # fmt: skip


@pytest.mark.parametrize(("name", "options"), CASES, ids=str)
def test_every_layer_of_a_network_by_brute_force(name, options):
    """Through hooks, with the sums of the latest spikes used again where a layer reads them."""
    model = enliven(iso.create_model(name, T=3, **options)).eval()
    size = max(32, model.layout.total_stride)
    images = torch.randn(2, model.in_channels, size, size)
    seen = {}

    def look(layer, inputs, _):
        x = inputs[0].flatten(0, 1) if isinstance(layer, nn.Linear) else inputs[0]
        old = seen.get(layer, (0.0, 0.0))
        new = by_brute_force(x, layer)
        seen[layer] = (old[0] + new[0], old[1] + new[1])

    layers = {m: n for n, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}
    for layer in layers:
        layer.register_forward_hook(look)
    work = measure_energy(model, images).work
    assert [w.layer for w in work.layers] == list(layers.values())
    for layer, counted in zip(layers, work.layers, strict=True):
        operations, graded = seen[layer]
        assert counted.operations == pytest.approx(operations / 2, rel=1e-12), counted.layer
        if counted.graded_acs:
            assert counted.graded_acs == pytest.approx(graded / 2, rel=1e-12), counted.layer
        assert counted.operations <= counted.inside <= counted.dense
    assert (work.samples, work.T, work.static) == (2, 3, True)


def test_dense_totals_are_those_of_flop_counter():
    model = iso.create_model("ms_resnet20", T=4).eval()
    work = measure_energy(model, IMAGES).work
    with FlopCounterMode(display=False) as flops:
        model(IMAGES)
    assert sum(layer.dense for layer in work.layers) == flops.get_total_flops() / 2 / len(IMAGES)
    card = model_card("ms_resnet20", T=4)
    assert sum(layer.dense for layer in work.layers) == card.macs
    assert work.neurons == card.neurons == work.potentials
    assert measured_counts(work).ann == card.macs - 3 * (card.macs - card.stem_macs) / 4


def test_training_and_eval_and_parts_of_a_batch_count_alike():
    """Norms in eval, time folded as in training or step by step: one network, the same counts."""
    model = enliven(iso.create_model("ds_resnet8", T=4)).double().eval()
    images = IMAGES.double()
    works = []
    for parts, folded in (([images], False), ([images], True), (images.split(1), False)):
        with OperationCounter(model) as counter, torch.no_grad():
            for part in parts:
                model.training = folded
                model(part)
        works.append(counter.work())
    model.training = False
    assert works[0] == works[1] == works[2]


def test_a_clip_runs_the_stem_at_every_step():
    model = enliven(iso.create_model("ms_resnet8", T=2))
    images = measure_energy(model, IMAGES, T=4)
    clip = measure_energy(model, IMAGES.expand(4, -1, -1, -1, -1))
    assert (images.work.static, clip.work.static) == (True, False)
    assert images.work.T == clip.work.T == 4
    assert clip.mj["stem_once"] == pytest.approx(images.mj["stem_every_step"])
    assert clip.mj["stem_every_step"] == clip.mj["stem_once"]
    assert clip.mj["ann"] == images.mj["ann"]


def layer_work(**changes):
    base = {"layer": "a", "group": "stage 1", "reads": BINARY, "runs": 2, "dense": 100, "inside": 90}
    return LayerWork(**{**base, "operations": 10, "graded": 10, "inputs": 8, "weights": 5, **changes})


WORK = Work(
    samples=1, T=2, static=True, neurons=4, spikes=6, potentials=8, leaky=6,
    layers=(
        layer_work(layer="s", group="stem", reads=REAL, runs=1, dense=50, operations=40, graded=40),
        layer_work(),
        layer_work(reads=Domain(3), graded=25),
        layer_work(layer="p", group="projections", reads=REAL, operations=30, graded=30),
    ),
)  # fmt: skip


def test_energies_by_hand():
    pj = {way: value * 1e9 for way, value in iso.analysis.Energy(WORK, "45nm_float32").mj.items()}
    assert pj["ann"] == pytest.approx(4.6 * (50 + 3 * 100 / 2))
    assert pj["reals_as_ac"] == pytest.approx(40 * 4.6 + 0.9 * (10 + 25 + 30))
    assert pj["stem_once"] == pytest.approx(40 * 4.6 + 0.9 * (10 + 25) + 30 * 4.6)
    assert pj["stem_every_step"] == pytest.approx(2 * 40 * 4.6 + 0.9 * (10 + 25) + 30 * 4.6)
    assert layer_mj(WORK.layers[2], FLOAT32) * 1e9 == pytest.approx(0.9 * 25)
    assert membrane_mj(WORK, FLOAT32) * 1e9 == pytest.approx(2 * (6 * 4.6 + 2 * 0.9 + 8 * 0.9))
    inside = iso.analysis.Energy(WORK, "45nm_float32").ann_inside_mj
    assert inside * 1e9 == pytest.approx(4.6 * (90 + 3 * 90 / 2))
    memory = {part: value * 1e9 / (100 / 64) for part, value in memory_mj(WORK, FLOAT32).items()}
    assert memory["weights"] == pytest.approx((5 + 3 * 2 * 5) * 32)
    assert memory["inputs"] == pytest.approx(2 * 8 * (32 + 2 * 1 + 2 * 2 + 2 * 32))
    assert memory["potentials"] == pytest.approx(2 * 2 * 8 * 32)
    assert memory["ann"] == pytest.approx(4 * (5 + 2 * 8) * 32)


def test_groups_add_up_and_come_in_the_order_of_the_network():
    energy = measure_energy(enliven(iso.create_model("ms_resnet14", T=2)), IMAGES)
    found = energy.as_dict()
    assert list(found["groups"]) == ["stem", "stage 1", "stage 2", "stage 3", "projections", "head"]
    assert sum(g["mj"] for g in found["groups"].values()) == pytest.approx(found["mj"]["stem_once"])
    assert sum(g["ann_mj"] for g in found["groups"].values()) == pytest.approx(found["mj"]["ann"])
    assert found["ratio"] == found["mj"]["ann"] / found["mj"]["stem_once"]
    assert found["table"]["source"] == FLOAT32.source
    assert found["mj"]["reals_as_ac"] < found["mj"]["stem_once"] < found["mj"]["stem_every_step"]
    assert [group_of(n) for n in ("stages.0.links.0.conv", "stages.2.widening.conv", "head.fc")] == [
        "projections", "stage 3", "head",
    ]  # fmt: skip


def test_potentials_and_leaks_by_neuron():
    def work(**neuron):
        return measure_energy(iso.create_model("ms_resnet8", T=1, neuron=neuron), IMAGES[:1]).work

    neurons = model_card("ms_resnet8").neurons
    for options, potentials, leaky in (
        ({"kind": "if"}, 1, 0), ({"kind": "lif", "decay": 0.5}, 1, 1), ({"kind": "plif"}, 1, 1),
        ({"kind": "mlf", "levels": 3}, 3, 3), ({"kind": "ilif"}, 1, 1),
    ):  # fmt: skip
        found = work(**options)
        assert (found.neurons, found.potentials, found.leaky) == (neurons, potentials * neurons, leaky * neurons)


def test_slots_count_as_the_integers_that_they_are():
    """The network on binary slots does as many additions as the integers' graded count."""
    model = enliven(iso.create_model("ds_resnet8", T=2)).double()
    integers, slots = (measure_energy(m, IMAGES.double()).work for m in (model, iso.spike_driven(model)))
    graded, acs = (sum(layer.graded_acs for layer in w.layers) for w in (integers, slots))
    assert graded == acs
    assert graded > sum(layer.acs for layer in integers.layers)
    assert measured_counts(integers).ann == measured_counts(slots).ann


def test_models_without_spikes_and_batches_that_are_not_finite_are_refused():
    with pytest.raises(ConfigError, match="SpikingResNet has no spiking neuron"):
        measure_energy(iso.create_ann_twin("ms_resnet8"), IMAGES)
    with pytest.raises(ConfigError, match="not of a Linear"):
        OperationCounter(nn.Linear(2, 2))
    model = iso.create_model("ms_resnet8").train()
    with pytest.raises(ConfigError, match=r"a batch of shape \[3, 3, 32, 32\] holds numbers that are not finite"):
        measure_energy(model, IMAGES / 0)
    assert model.training
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    with pytest.raises(ConfigError, match="nothing was counted"):
        measure_energy(model, [])


def test_what_is_saved_is_plain():
    energy = measure_energy(iso.create_model("ms_resnet8"), IMAGES)
    saved = json.loads(json.dumps(energy.as_dict()))
    assert saved["measured"] is True
    assert saved["layers"][0]["reads"] == "real"
    assert asdict(energy.table).keys() < saved["table"].keys()

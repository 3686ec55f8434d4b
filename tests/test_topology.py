from dataclasses import replace

import pytest
import torch

from isospike.errors import ConfigError, UnknownName
from isospike.models.bodies import BODIES
from isospike.residual import JOINS, TOPOLOGIES, Topology
from isospike.residual.da import DA_NCS, DA_SCN
from isospike.residual.ds import DS
from isospike.residual.join import ADD, AND, IAND
from isospike.residual.ms import MS
from isospike.residual.plain import PLAIN
from isospike.residual.sew import SEW
from isospike.residual.vanilla import VANILLA


def test_what_the_words_imply():
    implied = {
        row.name: (row.stream, row.opening, row.closing, row.can_be_identity, row.identity_at_init)
        for row in (PLAIN, VANILLA, SEW, MS)
    }
    assert implied == {
        "plain": ("spike", "spike", "", False, False),
        "vanilla": ("spike", "spike", "", False, False),
        "sew": ("spike", "spike", "", True, False),
        "ms": ("membrane", "", "spike", True, True),
    }
    assert SEW.with_tail_init(0).identity_at_init
    assert not MS.with_tail_init(0.1).identity_at_init


def test_what_the_four_orders_imply():
    rows = {name[-3:]: row for name in TOPOLOGIES if name.startswith("da_") for row in [TOPOLOGIES[name]]}
    implied = {
        order: (row.stream, row.closing, row.tail_is_norm, row.norm_meets_stream, len(row.branch_norms(3)))
        for order, row in rows.items()
    }
    assert implied == {
        "cns": ("spike", "", True, True, 3),
        "ncs": ("spike", "norm", False, True, 3),
        "scn": ("membrane", "spike", True, False, 3),
        "nsc": ("membrane", "norm spike", False, True, 3),
    }
    for order, row in rows.items():
        words = {"c": "conv", "n": "norm", "s": "spike"}
        assert row.cell == row.last == " ".join(words[letter] for letter in order)
        assert row.can_be_identity
        assert row.with_tail_init(0).identity_at_init


@pytest.mark.parametrize(
    ("row", "change", "message"),
    [
        (SEW, {"cell": "conv norm fire"}, "'fire' in cell is not a word; words are conv, norm, spike, pool, shared"),
        (SEW, {"cell": "norm spike"}, "cell must hold 1 conv, 'norm spike' holds 0"),
        (SEW, {"last": "conv conv norm spike"}, "last must hold 1 conv"),
        (SEW, {"cell": "conv norm norm spike"}, "says norm twice"),
        (SEW, {"cell": "pool conv norm spike"}, "pool stands only in the projection"),
        (SEW, {"project": "conv pool norm spike"}, "pool stands only in the projection, before its conv"),
        (VANILLA, {"after": "conv spike"}, "after must hold 0 conv"),
        (VANILLA, {"after": "norm spike"}, "no weights belong there"),
        (VANILLA, {"after": ""}, "two convolutions follow each other without a neuron"),
        (SEW, {"after": "spike"}, "two neurons follow each other"),
        (MS, {"cell": "conv norm"}, "without a neuron between"),
        (SEW, {"project": "conv norm"}, "the projection must end in one, not 'conv norm'"),
        (MS, {"project": "conv norm spike"}, "the projection cannot end in a spike"),
        (MS, {"join": AND}, "would join membranes; use 'add'"),
        (VANILLA, {"join": IAND}, "currents that a neuron after the join reads; use 'add'"),
        (PLAIN, {"project": "conv norm spike"}, "project must hold 0 conv"),
        (MS, {"project": "conv shared norm"}, "shared stands only at the start of the projection"),
        (MS, {"cell": "shared conv norm spike"}, "shared stands only at the start of the projection"),
        (SEW, {"project": "shared conv norm spike"}, "nothing before it to be shared"),
        (MS, {"identity": "spike"}, "holds a norm or nothing, not 'spike'"),
        (PLAIN, {"identity": "norm"}, "holds a norm or nothing, not 'norm'"),
        (SEW, {"identity": "norm"}, "a norm on its skip would make real numbers"),
        (MS, {"identity": "conv"}, "identity must hold 0 conv"),
        (DS, {"join": AND}, "these neurons put out counts up to 3; use 'add'"),
        (DS, {"join": IAND}, "these neurons put out counts up to 3; use 'add'"),
        (SEW, {"join": AND, "neuron": {"kind": "relu"}}, "these neurons put out real numbers; use 'add'"),
        (DA_NCS, {"join": AND, "conv_last": 0.0}, "cannot start at 1.*leave tail_init at 1"),
        (DA_SCN, {"combine": "mean"}, "falls silent with depth: use 'sum' or 'rsqrt'"),
        (MS, {"combine": "mean", "reach": "fusion"}, "falls silent with depth"),
        (VANILLA, {"reach": "fusion"}, "needs units that add branch and skip, with nothing behind the sum"),
        (SEW, {"join": IAND, "combine": "learned"}, "needs units that add branch and skip"),
        (PLAIN, {"reach": "global"}, "needs units that add branch and skip"),
    ],
)
def test_a_row_that_makes_no_sense_cannot_be_built(row, change, message):
    with pytest.raises(ConfigError, match=f"topology '{row.name}': .*{message}"):
        replace(row, **change)


def test_a_row_checks_its_neuron_and_its_initialisation():
    with pytest.raises(UnknownName, match="unknown neuron 'liff'"):
        replace(MS, neuron={"kind": "liff"})
    with pytest.raises(UnknownName, match="unknown initialisation of weights 'kaiming'"):
        replace(MS, weight_init="kaiming")


@pytest.mark.parametrize("name", TOPOLOGIES)
def test_every_row_names_its_source_and_bodies_that_exist(name):
    row: Topology = TOPOLOGIES[name]
    assert row.name == name
    assert "arXiv:" in row.source
    assert all(body in BODIES for body in row.bodies)


@pytest.mark.parametrize("name", JOINS)
def test_the_neutral_value_leaves_the_skip_as_it_is(name):
    join = JOINS[name]
    skip = torch.tensor([0.0, 1.0]) if join.binary else torch.randn(9)
    assert torch.equal(join(branch=torch.full_like(skip, join.neutral), skip=skip), skip)


def test_joins_by_hand():
    branch, skip = torch.tensor([0.0, 0, 1, 1]), torch.tensor([0.0, 1, 0, 1])
    assert ADD(branch=branch, skip=skip).tolist() == [0, 1, 1, 2]
    assert AND(branch=branch, skip=skip).tolist() == [0, 0, 0, 1]
    assert IAND(branch=branch, skip=skip).tolist() == [0, 1, 0, 0]
    with pytest.raises(TypeError, match="positional"):
        IAND(branch, skip)  # an asymmetric join cannot be called backwards


def test_srm_is_an_alias_of_ms_and_not_listed():
    assert TOPOLOGIES["srm"] is MS
    assert "srm" not in list(TOPOLOGIES)
    with pytest.raises(ValueError, match="topology 'srm' is registered twice"):
        TOPOLOGIES.register("srm", MS)

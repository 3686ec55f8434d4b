from dataclasses import replace

import pytest
import torch

from isospike.errors import ConfigError, UnknownName
from isospike.models.bodies import BODIES
from isospike.residual import JOINS, TOPOLOGIES, Topology
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


def test_orders_with_the_norm_first_are_legal_rows_too():
    row = replace(MS, name="nsc", cell="norm spike conv", last="norm spike conv", project="conv")
    assert (row.stream, row.closing, row.tail_is_norm) == ("membrane", "norm spike", False)
    assert len(row.branch_norms(2)) == 2
    with pytest.raises(ConfigError, match="'norm spike conv' of nsc has none"):
        row.with_tail_init(0)


@pytest.mark.parametrize(
    ("row", "change", "message"),
    [
        (SEW, {"cell": "conv norm fire"}, "'fire' in cell is not a word; words are conv, norm, spike, pool"),
        (SEW, {"cell": "norm spike"}, "cell must hold 1 conv, 'norm spike' holds 0"),
        (SEW, {"last": "conv conv norm spike"}, "last must hold 1 conv"),
        (SEW, {"cell": "conv norm norm spike"}, "says norm twice"),
        (SEW, {"cell": "pool conv norm spike"}, "pool stands only in the projection"),
        (SEW, {"project": "conv pool norm spike"}, "right before its conv"),
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
    ],
)
def test_a_row_that_makes_no_sense_cannot_be_built(row, change, message):
    with pytest.raises(ConfigError, match=f"topology '{row.name}': .*{message}"):
        replace(row, **change)


def test_a_row_checks_its_neuron_and_its_initialisation():
    with pytest.raises(UnknownName, match="unknown neuron 'liff'"):
        replace(MS, neuron={"kind": "liff"})
    with pytest.raises(UnknownName, match="unknown initialisation of convolutions 'kaiming'"):
        replace(MS, conv_init="kaiming")


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

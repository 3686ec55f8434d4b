"""Verdicts: every rule at its threshold, and on real networks of known behaviour."""

import math
from dataclasses import replace

import pytest
import torch

import isospike as iso
from isospike.analysis import GradientNorms, UnitIsometry, judge, measure_isometry
from isospike.analysis.probes import Estimate
from isospike.analysis.verdict import NOTES, VERDICTS


def units(*phis, adds=True, tail=0.5, varphi=0.0, error=0.0, projects=()):
    """Units of these phi; ``projects``: which of them, counted from 0, change the shape."""
    return [
        UnitIsometry(
            f"stages.0.{n}", 1, n + 1, 64, n in projects, adds, tail, Estimate(phi, error), Estimate(varphi, error),
            None,
        )
        for n, phi in enumerate(phis)
    ]  # fmt: skip


def rules(verdict):
    return verdict.main.rule, {note.rule for note in verdict.notes}


def gradients(first, last):
    return GradientNorms(1.0, {"stages.0.0": first, "stages.0.1": last}, {})


# name; units; verdict; notes
CASES = {
    "even": (units(1, 1, 1), "trains", set()),
    "just within": (units(*[10 ** (0.99 / 3)] * 3), "trains", set()),
    "just beyond": (units(*[10 ** (1.01 / 3)] * 3), "explodes", {"large_tail"}),
    "beyond with a small tail": (units(*[10 ** (1.01 / 3)] * 3, tail=0.1), "explodes", set()),
    "beyond without a norm": (units(*[4.0] * 3, tail=None), "explodes", set()),
    "beyond on the way only": (units(0.01, 1, 100), "explodes", {"large_tail"}),
    "vanishing behind neurons": (units(0.4, 0.4, 0.4, adds=False), "vanishes", {"gated_stream"}),
    "vanishing": (units(0.4, 0.4, 0.4), "vanishes", set()),
    "falling, then rising a little": (units(20, 0.001), "vanishes", set()),
    "rising, then falling further": (units(1e-6, 20, 1), "vanishes", set()),
    "dead": (units(1, 0, 1), "dead", set()),
    "scattered": (units(1, 1, 1, varphi=1.01), "trains", {"spread"}),
    "not scattered": (units(1, 1, 1, varphi=0.99), "trains", set()),
    "unsure": (units(2, 2, 2.4, error=0.4), "trains", {"uncertain"}),
    "sure": (units(2, 2, 2.4, error=0.02), "trains", set()),
    "projections apart": (units(1, 0.3, 1, 0.3, 1, projects=(1, 3)), "trains", {"projections"}),
    "projections near 1": (units(1, 0.4, 1, 0.4, 1, projects=(1, 3)), "trains", set()),
    "projections hide nothing": (units(2, 0.1, 2, 0.1, 3, projects=(1, 3)), "explodes", {"large_tail", "projections"}),
    "nothing but projections": (units(0.3, 0.3, projects=(0, 1)), "vanishes", set()),
    "dead projection": (units(1, 0, 1, projects=(1,)), "dead", set()),
}


@pytest.mark.parametrize("name", CASES)
def test_every_rule_at_its_threshold(name):
    measured, verdict, notes = CASES[name]
    assert rules(judge(measured)) == (verdict, notes)


# units; norms of the gradient of the loss at both ends; verdict
TRAINED = {
    "even": (units(1, 1), (1.0, 1.0), "trains"),
    "falls, but the loss's arrives": (units(0.1, 0.1), (0.11, 1.0), "arrives"),
    "falls, and so does the loss's": (units(0.1, 0.1), (0.09, 1.0), "vanishes"),
    "falls, and nothing else is known": (units(0.1, 0.1), None, "vanishes"),
    "rises, but the loss's does not": (units(10, 10), (9.0, 1.0), "arrives"),
    "rises, and so does the loss's": (units(10, 10), (11.0, 1.0), "explodes"),
    "dead": (units(0, 1), (0.0, 1.0), "dead"),
}


@pytest.mark.parametrize("name", TRAINED)
def test_of_a_trained_network_the_gradient_of_the_loss_decides(name):
    measured, ends, verdict = TRAINED[name]
    found = judge(measured, gradients(*ends) if ends else None, trained=True)
    assert found.main.rule == verdict
    assert "large_tail" not in rules(found)[1]  # how a last norm starts is no advice to a trained network
    if verdict == "arrives":
        assert judge(measured, gradients(*ends)).main.rule in ("explodes", "vanishes")
        assert f"{ends[0]:.2g} times as long" in found.main.text
        assert "theory speaks of the start" in found.main.reason


def test_units_that_change_the_shape_are_counted_apart():
    verdict = judge(units(1, 0.1, 10**0.5, 0.1, 10**0.7, projects=(1, 3)))
    assert verdict.main.text.startswith(
        "gradient explodes: on its way back its square has grown tenfold at unit 3 of 5"
    )
    assert "the units that change the shape (2) multiply a gradient's square by 10^-2.00" in str(verdict)
    even = judge(units(1, 0.1, 1, projects=(1,)))
    assert "over the 2 units that keep their shape is 0.00" in even.main.text


def test_the_gradient_of_the_loss_has_its_own_rule():
    assert rules(judge(units(1, 1), gradients(10.1, 1.0)))[1] == {"loss_gradient"}
    assert rules(judge(units(1, 1), gradients(1.0, 10.1)))[1] == {"loss_gradient"}
    assert rules(judge(units(1, 1), gradients(9.9, 1.0)))[1] == set()
    assert rules(judge(units(1, 1), gradients(0.0, 1.0)))[1] == set()


def test_all_rules_are_tested_and_none_is_named_twice():
    named = [rule.name for rule in (*VERDICTS, *NOTES)]
    assert len(set(named)) == len(named)
    tested = {rule for _, verdict, notes in CASES.values() for rule in {verdict, *notes}}
    tested |= {"loss_gradient"} | {verdict for _, _, verdict in TRAINED.values()}
    assert tested == set(named)


def test_sentences_say_where_and_how_much():
    explodes = judge(units(1.0, *[10**0.3] * 6))
    assert explodes.main.text == (
        "gradient explodes: on its way back its square has grown tenfold at unit 4 of 7, and 10^1.80-fold in front of "
        "the first"
    )
    assert "stand at 0.5; starting them at 0 or 0.1" in str(explodes)
    vanishes = judge(units(*[0.5] * 6))
    assert "fallen to a tenth at unit 3 of 6, and to 10^-1.81" in vanishes.main.text
    trains = judge(units(*[10**0.02] * 4))
    assert trains.main.text.startswith("trains at this depth: log10 of the product of phi over 4 units is 0.08")
    assert judge(units(1, 0)).main.text.startswith("no gradient passes unit 2 of 2 (stages.0.1)")
    verdict = explodes.as_dict()
    assert (verdict["rule"], verdict["notes"][0]["rule"]) == ("explodes", "large_tail")
    assert "arXiv" in verdict["reason"]


def test_dead_units_leave_a_product_of_nothing():
    (unit,) = units(0)
    assert unit.log10_phi == -math.inf
    assert replace(unit, phi=Estimate(100.0, None)).log10_phi == 2


@pytest.mark.parametrize(("tail", "expected"), [(0.0, "trains"), (0.1, "trains"), (0.5, "explodes")])
def test_membrane_shortcuts_train_in_depth_only_with_small_tails(tail, expected):
    model = iso.create_model("ms_resnet56", tail_init=tail, T=4, body="cifar")
    images = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    verdict = judge(measure_isometry(model, images, probes=2))
    assert verdict.main.rule == expected
    assert ("large_tail" in rules(verdict)[1]) == (expected == "explodes")

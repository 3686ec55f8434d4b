"""Verdicts: every rule at its threshold, and on real networks of known behaviour."""

import math
from dataclasses import replace

import pytest
import torch

import isospike as iso
from isospike.analysis import GradientNorms, UnitIsometry, judge, measure_isometry
from isospike.analysis.probes import Estimate
from isospike.analysis.verdict import NOTES, VERDICTS


def units(*phis, adds=True, tail=0.5, varphi=0.0, error=0.0):
    return [
        UnitIsometry(
            f"stages.0.{n}", 1, n + 1, 64, False, adds, tail, Estimate(phi, error), Estimate(varphi, error), None
        )
        for n, phi in enumerate(phis)
    ]


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
}


@pytest.mark.parametrize("name", CASES)
def test_every_rule_at_its_threshold(name):
    measured, verdict, notes = CASES[name]
    assert rules(judge(measured)) == (verdict, notes)


def test_the_gradient_of_the_loss_has_its_own_rule():
    assert rules(judge(units(1, 1), gradients(10.1, 1.0)))[1] == {"loss_gradient"}
    assert rules(judge(units(1, 1), gradients(1.0, 10.1)))[1] == {"loss_gradient"}
    assert rules(judge(units(1, 1), gradients(9.9, 1.0)))[1] == set()
    assert rules(judge(units(1, 1), gradients(0.0, 1.0)))[1] == set()


def test_all_rules_are_tested_and_none_is_named_twice():
    named = [rule.name for rule in (*VERDICTS, *NOTES)]
    assert len(set(named)) == len(named)
    tested = {rule for _, verdict, notes in CASES.values() for rule in {verdict, *notes}} | {"loss_gradient"}
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

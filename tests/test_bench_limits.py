"""How near a row of the bench is to what the machine can do."""

from dataclasses import replace

import pytest
import torch

import isospike as iso
from bench_results import row
from isospike.bench import Case
from isospike.bench.limits import additions_of, machine_limits, nearness, traffic_of
from isospike.bench.table import notes

INFER = Case("infer", "ms_resnet8", batch=6, T=2)


def test_nearness_by_hand():
    """Ours takes 0.2 s and the peer 0.4 s; 10 G additions are 50 and 25 G per second, of 100 G."""
    found = nearness({**row(INFER), "amount": {"additions": 10e9}}, {"additions": 100e9, "bytes": 1.0})
    assert found == [
        "isospike: 50.0 G additions of what fired per second, 50%",
        "spikingjelly: 25.0 G additions of what fired per second, 25% of the 100.0 at which this machine adds floats "
        "that its inner cache holds",
    ]
    assert nearness({**row(INFER), "amount": {"additions": 1.0}}, None) == []
    assert nearness(row(INFER), {"additions": 1.0, "bytes": 1.0}) == []  # results of old
    assert notes({**row(INFER), "amount": {"bytes": 8e9}}, {"additions": 1.0, "bytes": 80e9})[-1] == (
        "spikingjelly: 20.0 GB per second, 25% of the 80.0 at which this machine copies in its memory"
    )


def test_additions_are_those_of_what_fired():
    model = iso.create_model("ms_resnet8", T=2)
    x = torch.randn(6, 3, 16, 16)
    work = iso.measure_energy(model, x[:4]).work
    assert all(layer.graded_acs == 0 for layer in work.layers if layer.group == "stem")
    expected = 6 * sum(layer.graded_acs for layer in work.layers)
    assert additions_of(INFER, model, x) == {"additions": expected}
    assert expected > 0
    assert additions_of(replace(INFER, work="train"), model, x) == {"additions": 2 * expected}


def test_traffic_by_hand():
    case = Case("fire", "3 channels", batch=2, T=4, size=5)
    assert traffic_of(case) == {"bytes": 4 * 2 * (4 * 2 * 3 * 25)}
    assert traffic_of(replace(case, work="fire_train")) == {"bytes": 4 * 5 * (4 * 2 * 3 * 25)}


@pytest.mark.compiled
def test_a_machine_adds_faster_than_it_copies():
    limits = machine_limits(threads=1)
    assert limits["additions"] > limits["bytes"] / 4 > 1e6


def test_without_the_library_there_are_no_limits(monkeypatch):
    monkeypatch.setattr("isospike.bench.limits.library", lambda: None)
    assert machine_limits(threads=1) is None

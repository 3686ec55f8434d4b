"""The bench of conversion: one ANN for all, logits that point the same way."""

from dataclasses import asdict, replace

import pytest
import torch

import isospike as iso
from bench_here import fake_peer_script, near
from isospike.bench import Case, line_up, measure_case
from isospike.bench.describe import describe, network_tensors
from isospike.bench.ours import build, load_model
from isospike.bench.peers.nets import Ann
from isospike.bench.table import title
from isospike.errors import ConfigError
from test_bench import PLAN, fake_peer

__all__ = ["fake_peer", "near"]  # pytest finds it here

CONVERT = Case("convert", "vanilla_resnet8", batch=64, T=32, options={"neuron": "relu"}, size=16, every_mode=False)


# The logits of the ANN, some factor longer.
FAKE_CONVERTED = fake_peer_script("""
    from isospike.bench.peers.nets import Ann
    ann = Ann(job["net"]).eval()
    ann.load(given)
    with torch.no_grad():
        found = {"logits": FACTOR * ann(given["x"][:32])}
""")


def test_a_described_ann_is_the_same_function():
    model = iso.create_model("vanilla_resnet8", T=1, neuron="relu")
    tensors = network_tensors(model, batch=3, size=16)
    theirs = Ann(describe(model)).double().eval()
    theirs.load(tensors)
    job = {"model": "vanilla_resnet8", "T": 1, "options": {"neuron": "relu"}, "device": "cpu", "precision": "float64"}
    ours, x = load_model(job, tensors).eval(), tensors["x"].double()
    torch.testing.assert_close(theirs(x), ours(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("work", ["convert", "simulate"])
def test_a_converted_network_beside_its_ann(near, work, tmp_path):
    case = replace(CONVERT, work=work)
    found = measure_case(case, line_up(case, tmp_path, "cpu", False), PLAN)
    assert [(one["name"], one["role"]) for one in found["contestants"]] == [("isospike", "ours"), ("ann", "floor")]
    assert title(found).startswith("vanilla_resnet8, neuron=relu, ")
    torch.manual_seed(0)
    model = iso.create_model("vanilla_resnet8", T=1, neuron="relu")
    tensors = network_tensors(model, batch=64, size=16)
    job = {**asdict(case), "device": "cpu", "setting": {"contestant": work}}
    logits = build(job, tensors).outputs()["logits"]
    ann = load_model({**job, "T": 1}, tensors).eval()
    assert logits.shape == (32, 10)
    assert torch.cosine_similarity((logits / case.T).flatten(), ann(tensors["x"][:32]).flatten(), dim=0) > 0.9


def test_thresholds_are_everyones_own_but_logits_must_be_alike(near, fake_peer):
    """A peer whose logits point elsewhere gets no ratio; one whose logits are longer does."""
    for factor, agree in ((3.0, True), (-1.0, False)):
        python = fake_peer(FAKE_CONVERTED.replace("FACTOR", str(factor)))
        case = replace(CONVERT, work="simulate", peer="spikingjelly")
        found = measure_case(case, line_up(case, python, "cpu", False), PLAN)
        assert [one["agree"] for one in found["equality"]] == [agree]


def test_conversion_is_measured_on_the_cpu(tmp_path):
    with pytest.raises(
        ConfigError, match="measured on the CPU, where they are compiled, not on cuda:0: take --device cpu"
    ):
        line_up(CONVERT, tmp_path, "cuda:0", False)

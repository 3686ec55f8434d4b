"""Watching during training: it changes nothing, writes what flowed, and is resumed like everything else."""

import json
import math
from itertools import pairwise

import pytest
import torch

import isospike as iso
from isospike.run_folder import read_records
from isospike.train.watching import Watching, flow_record
from isospike.weights import load_tensors
from test_trainer import VARIANTS, new_trainer, numbers, resumed_trainer, tiny


def watched(every, **parts):
    train = {**parts.pop("train", {}), "watch_every": every}
    return tiny(**parts, train=train)


@pytest.mark.parametrize("variant", ["plain", "averaged", "bf16", "lean"])
def test_training_is_the_same_to_the_last_bit(tmp_path, variant):
    parts = {"train": {"memory": "lean"}} if variant == "lean" else VARIANTS[variant]
    for name, every in (("without", 0), ("with", 2)):
        new_trainer(watched(every, **parts), tmp_path / name).fit()
    assert numbers(tmp_path / "with") == numbers(tmp_path / "without")
    tensors = [load_tensors(tmp_path / name / "model.safetensors")[0] for name in ("with", "without")]
    assert all(torch.equal(tensors[0][name], tensors[1][name]) for name in tensors[1])
    assert not (tmp_path / "without" / "flow.jsonl").exists()
    assert len(read_records(tmp_path / "with" / "flow.jsonl")[0]) == 9


def test_the_first_step_and_every_so_many_after_it_are_watched(tmp_path):
    trainer = new_trainer(watched(5), tmp_path / "run")
    trainer.fit()
    records, damaged = read_records(tmp_path / "run" / "flow.jsonl")
    assert damaged == ""
    assert [(r["step"], r["epoch"]) for r in records] == [(1, 1), (6, 1), (11, 2), (16, 3)]
    spiking = [name for name, module in trainer.model.named_modules() if isinstance(module, iso.neurons.Neuron)]
    for record in records:
        assert record["neurons"]["name"] == spiking
        assert record["units"]["name"] == [f"stages.{stage}.0" for stage in range(3)]
        assert all(len(rates) == 2 for rates in record["neurons"]["rate"])
        assert 0 < record["rate"] < 1
    assert not any(module._forward_hooks for module in trainer.model.modules())


def test_a_resumed_run_has_watched_what_the_uninterrupted_one_has(tmp_path):
    config = watched(3)
    new_trainer(config, tmp_path / "whole").fit()
    new_trainer(config, tmp_path / "parts").fit(max_steps=4)
    with (tmp_path / "parts" / "flow.jsonl").open("a") as file:
        file.write('{"step": 7}\n{"st')  # as after kill -9 behind the checkpoint
    resumed_trainer(tmp_path / "parts").fit(max_steps=11)
    resumed_trainer(tmp_path / "parts").fit()
    whole, parts = ((tmp_path / name / "flow.jsonl").read_text() for name in ("whole", "parts"))
    assert whole == parts
    assert whole.count("\n") == 6


def test_what_is_computed_anew_is_counted_like_the_rest(tmp_path):
    for memory in ("fast", "lean"):
        new_trainer(watched(1, train={"memory": memory}), tmp_path / memory).fit(max_steps=2)
    fast, lean = ((tmp_path / memory / "flow.jsonl").read_text() for memory in ("fast", "lean"))
    assert fast == lean


def test_a_network_without_spikes_is_trained_and_it_is_said(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr("isospike.train.display.SilentDisplay.say", lambda self, text: said.append(text))
    config = watched(1, model={"neuron": {"kind": "relu"}, "T": 1})
    trainer = new_trainer(config, tmp_path / "run")
    assert said == ["no neuron of this network spikes, so train.watch_every has nothing to record"]
    assert trainer.fit(max_steps=2) == "max_steps"
    assert not (tmp_path / "run" / "flow.jsonl").exists()


def test_what_cannot_be_summed_is_said_and_does_not_end_training(monkeypatch):
    class Display:
        lines = []

        def say(self, text):
            self.lines.append(text)

    model = iso.create_model("ms_resnet8", T=2)
    with torch.no_grad():
        model.stages[0][0].branch.norm2.weight.fill_(math.inf)
    watching = Watching(model, 1, Display(), records=True)
    watching.see(0, torch.randn(2, 3, 8, 8))
    assert watching.record() is None
    assert "could not be watched: what 'stages.0.0' puts out is not finite" in Display.lines[0]
    assert watching.record() is None
    assert len(Display.lines) == 1


def test_the_record_holds_means_over_neurons_and_lists_by_place():
    model = iso.create_model("ds_resnet8", T=3)
    with iso.watch(model) as seen:
        model(torch.randn(2, 3, 16, 16))
    flow = seen.flow()
    record = json.loads(json.dumps(flow_record(flow)))
    assert record["rate"] == pytest.approx(flow.spikes_per_neuron / 3, rel=1e-3)
    sizes = [n.neurons for n in flow.neurons]
    silent = sum(n.silent * size for n, size in zip(flow.neurons, sizes, strict=True)) / sum(sizes)
    assert record["silent"] == pytest.approx(silent, rel=1e-3)
    for n, rates, opened in zip(flow.neurons, record["neurons"]["rate"], record["neurons"]["open"], strict=True):
        assert rates == pytest.approx(list(n.rate), rel=1e-3)
        assert opened == pytest.approx(sum(n.open) / 3, rel=1e-3)
    assert record["neurons"]["dormant_throughout"] == pytest.approx(
        [n.dormant_throughout for n in flow.neurons], rel=1e-3
    )
    assert record["neurons"]["histogram"][0] == pytest.approx(list(flow.neurons[0].histogram), rel=1e-3)
    assert record["units"]["largest"] == pytest.approx([max(u.largest) for u in flow.units], rel=1e-3)
    assert record["units"]["variance"] == pytest.approx([sum(u.variance) / 3 for u in flow.units], rel=1e-3)
    assert all(a != b for a, b in pairwise(record["units"]["name"]))

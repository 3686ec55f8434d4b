"""The trainer on tiny networks and synthetic images."""

import json

import pytest
import torch
from torch import nn

from isospike.config import parse_yaml, read_config
from isospike.data import load_dataset
from isospike.errors import CheckpointError, RunFailed
from isospike.finite import first_bad_place
from isospike.layers import BatchNorm
from isospike.processes import World
from isospike.run_folder import RunFolder
from isospike.train import Trainer
from isospike.train.checkpoint import check_same_run
from isospike.train.display import SilentDisplay
from isospike.weights import load_tensors

BASE = """
recipe: tiny
model: {name: ms_resnet8, T: 2, width: 4}
data: {kind: synthetic, classes: 3, channels: 1, size: 8, train: 48, test: 30}
optim: {kind: sgd, lr: 0.05, weight_decay: 1e-4}
schedule: {kind: cosine, warmup_epochs: 0.5}
train: {epochs: 3, batch_size: 8, checkpoint_every: 4, tensorboard: false}
"""
# Everything that could make a resumed run differ from one that was not stopped.
VARIANTS = {
    "plain": {},
    "augmented": {"augment": {"crop": 1, "flip": True, "cutout": 2, "mixup": 0.4, "cutmix": 1.0}},
    "averaged": {"train": {"ema": 0.9, "accumulate": 2, "clip_norm": 0.5, "log_every": 3}},
    "adamw": {"optim": {"kind": "adamw", "lr": 0.01, "no_decay": ["norm", "bias"]}, "model": {"dropout": 0.3}},
    "bf16": {"train": {"precision": "bf16"}, "objective": {"kind": "tet"}},
    "fp16": {"train": {"precision": "fp16"}},
}


def tiny(**parts):
    values = parse_yaml(BASE, "BASE")
    for part, changes in parts.items():
        new_kind = "kind" in changes and changes["kind"] != values.get(part, {}).get("kind")
        values[part] = changes if new_kind else {**values.get(part, {}), **changes}
    return read_config(values, "tiny")


def new_trainer(config, folder):
    run = RunFolder(folder)
    run.create(config, {})
    return Trainer(config, load_dataset(config.data), run, World(0, 1, torch.device("cpu")), SilentDisplay())


def resumed_trainer(folder, display=None):
    run = RunFolder(folder)
    config = run.read_config()
    trainer = Trainer(
        config, load_dataset(config.data), run, World(0, 1, torch.device("cpu")), display or SilentDisplay()
    )
    trainer.resume()
    return trainer


def numbers(folder):
    """The records without what depends on the clock and the machine."""
    clocks = {"images_per_s", "peak_memory_mb", "seconds"}
    return [{k: v for k, v in r.items() if k not in clocks} for r in RunFolder(folder).read_metrics()]


@pytest.mark.parametrize("stops", [(2,), (6,), (4, 5, 12, 13)], ids=str)
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_resumed_run_equals_the_uninterrupted_one_bit_for_bit(tmp_path, variant, stops):
    config = tiny(**VARIANTS[variant])
    assert new_trainer(config, tmp_path / "whole").fit() == "done"
    assert new_trainer(config, tmp_path / "parts").fit(max_steps=stops[0]) == "max_steps"
    for stop in stops[1:]:
        torch.manual_seed(stop)  # whatever the process did in between
        assert resumed_trainer(tmp_path / "parts").fit(max_steps=stop) == "max_steps"
    assert resumed_trainer(tmp_path / "parts").fit() == "done"
    assert numbers(tmp_path / "parts") == numbers(tmp_path / "whole")
    whole, _ = load_tensors(tmp_path / "whole" / "model.safetensors")
    parts, _ = load_tensors(tmp_path / "parts" / "model.safetensors")
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_what_was_written_after_the_last_checkpoint_is_dropped_on_resuming(tmp_path):
    """As after kill -9 between two checkpoints, in the middle of a line."""
    config = tiny()
    new_trainer(config, tmp_path / "whole").fit()
    new_trainer(config, tmp_path / "killed").fit(max_steps=4)
    with (tmp_path / "killed" / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "step", "step": 5, "loss": 99}\n{"kind": "st')
    assert len(RunFolder(tmp_path / "killed").read_metrics()) == 5
    resumed_trainer(tmp_path / "killed").fit()
    assert numbers(tmp_path / "killed") == numbers(tmp_path / "whole")


def test_a_run_that_was_killed_before_its_first_checkpoint_starts_anew(tmp_path):
    config = tiny()
    new_trainer(config, tmp_path / "whole").fit()
    RunFolder(tmp_path / "killed").create(config, {})
    (tmp_path / "killed" / "metrics.jsonl").write_text('{"kind": "step"}\n')
    trainer = resumed_trainer(tmp_path / "killed")
    assert trainer.state.step == 0
    trainer.fit()
    assert numbers(tmp_path / "killed") == numbers(tmp_path / "whole")


def test_the_run_folder_and_its_records(tmp_path):
    trainer = new_trainer(tiny(), tmp_path / "run")
    assert trainer.fit() == "done"
    run = RunFolder(tmp_path / "run")
    records = run.read_metrics()
    steps = [r for r in records if r["kind"] == "step"]
    tests = [r for r in records if r["kind"] == "epoch" and r["split"] == "test"]
    assert [r["step"] for r in steps] == list(range(1, 19))
    assert [(r["epoch"], r["step"]) for r in tests] == [(1, 6), (2, 12), (3, 18)]
    assert steps[0].keys() == {
        "kind", "split", "epoch", "step", "loss", "accuracy", "left_out", "lr", "grad_norm", "images_per_s",
        "peak_memory_mb", "seconds",
    }  # fmt: skip
    tested = run.read_analysis("test")
    assert tested["images"] == 30
    assert tested["accuracy"] == tests[-1]["accuracy"] == trainer.state.last_accuracy
    assert sum(map(sum, tested["confusion"])) == 30
    assert sum(tested["confusion"][n][n] for n in range(3)) / 30 == tested["accuracy"]
    best = max(tests, key=lambda r: r["accuracy"])
    assert (trainer.state.best.accuracy, trainer.state.best.epoch) == (best["accuracy"], best["epoch"])
    assert load_tensors(run.checkpoint("best"))[1]["state"]["epoch"] == best["epoch"]
    weights, _ = load_tensors(run.weights)
    assert all(torch.equal(weights[name], tensor) for name, tensor in trainer.model.state_dict().items())
    train = [r for r in records if r["kind"] == "epoch" and r["split"] == "train"]
    first = [r["loss"] for r in steps if r["epoch"] == 1]
    assert train[0]["loss"] == pytest.approx(sum(first) / len(first))


def test_it_learns(tmp_path):
    trainer = new_trainer(tiny(model={"width": 8}, train={"epochs": 15}), tmp_path / "run")
    trainer.fit()
    assert trainer.state.last_accuracy > 0.8


def test_every_step_draws_anew(tmp_path):
    """Dropout must not leave out the same features at every step."""
    trainer = new_trainer(tiny(model={"dropout": 0.5}), tmp_path / "run")
    seeds = []
    trainer.model.head.register_forward_pre_hook(lambda *_: seeds.append(torch.initial_seed()))
    trainer.fit(max_steps=6)
    assert len(set(seeds)) == 6


def test_log_every_averages_over_the_steps_between(tmp_path):
    new_trainer(tiny(), tmp_path / "each").fit(max_steps=6)
    new_trainer(tiny(train={"log_every": 3}), tmp_path / "third").fit(max_steps=6)
    losses = [r["loss"] for r in numbers(tmp_path / "each")]
    third = [r for r in numbers(tmp_path / "third") if r["kind"] == "step"]
    assert [r["step"] for r in third] == [3, 6]
    assert [r["loss"] for r in third] == pytest.approx([sum(losses[:3]) / 3, sum(losses[3:6]) / 3])


def test_accumulated_gradients_are_those_of_the_whole_batch(tmp_path):
    """With the norms in eval, where they do not tie images together, the parts must add up to the whole."""
    gradients = {}
    for parts in (1, 2, 4):
        trainer = new_trainer(tiny(train={"accumulate": parts}), tmp_path / str(parts))
        batch = next(trainer.train_loader.epoch(0))
        trainer.model.train()
        for module in trainer.model.modules():
            if isinstance(module, BatchNorm):
                module.eval()
                module.weight.data.fill_(1.0)
        images, targets = trainer.augment.train(batch.images, batch.labels, batch.seed)
        loss, correct = trainer.step.forward_backward(images, targets, batch.labels)
        gradients[parts] = [p.grad.clone() for p in trainer.model.parameters()], loss, correct
    for parts in (2, 4):
        torch.testing.assert_close(gradients[parts], gradients[1])


def test_clipping_bounds_the_step_and_reports_the_norm_before(tmp_path):
    free = new_trainer(tiny(), tmp_path / "free")
    free.fit(max_steps=1)
    clipped = new_trainer(tiny(train={"clip_norm": 1e-6}), tmp_path / "clipped")
    before = [p.clone() for p in clipped.model.parameters()]
    clipped.fit(max_steps=1)
    assert numbers(tmp_path / "clipped")[0]["grad_norm"] == numbers(tmp_path / "free")[0]["grad_norm"] > 0.01
    moved = max((p - q).abs().max() for p, q in zip(clipped.model.parameters(), before, strict=True))
    assert moved < 1e-6


def test_the_average_follows_its_formula_and_is_what_is_tested(tmp_path):
    trainer = new_trainer(tiny(train={"ema": 0.75}), tmp_path / "run")
    trainer.fit(max_steps=1)
    bias = trainer.model.head.fc.bias
    first = bias.clone()
    assert torch.equal(trainer.learner.average.module.head.fc.bias, first)
    trainer.fit(max_steps=2)
    torch.testing.assert_close(trainer.learner.average.module.head.fc.bias, 0.75 * first + 0.25 * bias)
    trainer.fit()
    tensors, _ = load_tensors(trainer.run.weights)
    assert torch.equal(tensors["head.fc.bias"], trainer.learner.average.module.head.fc.bias)
    assert not torch.equal(tensors["head.fc.bias"], bias)


class Poison(nn.Module):
    def forward(self, x):
        return x * float("nan")


@pytest.mark.parametrize(("place", "what"), [("closing.spike", "loss"), ("stages.1.0.branch.norm1", "gradient")])
def test_a_number_that_is_not_finite_names_the_first_layer_and_keeps_the_checkpoint(tmp_path, place, what):
    """A neuron hides it from the loss, but not from the gradient."""
    trainer = new_trainer(tiny(), tmp_path / "run")
    trainer.fit(max_steps=2)
    owner, name = place.rsplit(".", 1)
    setattr(trainer.model.get_submodule(owner), name, Poison())
    before = [p.clone() for p in trainer.model.parameters()]
    with pytest.raises(RunFailed, match=rf"the {what} is not finite at step 3: .*'{place}' \(Poison\)") as said:
        trainer.fit()
    assert "The last checkpoint" in str(said.value)
    assert all(torch.equal(p, q) for p, q in zip(trainer.model.parameters(), before, strict=True))
    assert load_tensors(trainer.run.checkpoint("last"))[1]["state"]["step"] == 2


def test_a_gradient_that_is_not_finite_names_where_it_began(tmp_path):
    trainer = new_trainer(tiny(), tmp_path / "run")
    trainer.model.stages[1][0].branch.conv2.weight.register_hook(lambda g: g * float("inf"))
    with pytest.raises(RunFailed, match=r"the gradient is not finite at step 1: .*'stages.1.0.branch.conv2.weight'"):
        trainer.fit()


def test_the_guard_tells_parameters_layers_gradients_and_loss_apart():
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    x = torch.ones(1, 2)
    assert first_bad_place(model, lambda: model(x)) == "every layer's output is finite, the loss itself is not"
    model[0].weight.grad = torch.full((2, 2), float("nan"))
    assert "the first gradient that is not finite is that of '0.weight'" in first_bad_place(model, lambda: model(x))
    bad = nn.Sequential(model[0], Poison(), nn.ReLU())
    assert "'1' (Poison)" in first_bad_place(bad, lambda: bad(x))
    model[0].bias.data[0] = float("inf")
    assert first_bad_place(model, lambda: model(x)) == "the parameter '0.bias' holds values that are not finite"
    assert not any(m._forward_hooks for m in model.modules())


def test_fp16_gives_up_when_no_scale_helps(tmp_path):
    trainer = new_trainer(tiny(train={"precision": "fp16"}), tmp_path / "run")
    trainer.model.head.fc.weight.register_hook(lambda g: g * float("nan"))
    trainer.config = trainer.config.model_copy(update={"train": trainer.config.train.model_copy(update={"epochs": 9})})
    trainer.steps = 9 * len(trainer.train_loader)
    with pytest.raises(RunFailed, match=r"the gradient is not finite at step 28: .*'head.fc.weight'"):
        trainer.fit()  # from 2^16 the scale is halved step by step until nothing is left to lower


def test_the_scale_of_fp16_gradients_is_taken_up_again(tmp_path):
    trainer = new_trainer(tiny(train={"precision": "fp16"}), tmp_path / "run")
    hook = trainer.model.head.fc.weight.register_hook(lambda g: g * float("inf"))
    trainer.fit(max_steps=3)
    hook.remove()
    assert trainer.learner.scaler.get_scale() == 2.0**13
    assert resumed_trainer(tmp_path / "run").learner.scaler.get_scale() == 2.0**13


def test_a_checkpoint_from_before_a_key_was_there_goes_on_with_its_default(tmp_path):
    config = tiny()
    saved = config.model_dump(mode="json")
    del saved["train"]["memory"]
    check_same_run(saved, config, tmp_path)
    with pytest.raises(CheckpointError, match="written with train.memory = 'fast' and config.yaml now says 'lean'"):
        check_same_run(saved, tiny(train={"memory": "lean"}), tmp_path)


def test_another_configuration_or_a_damaged_checkpoint_is_not_resumed(tmp_path):
    new_trainer(tiny(), tmp_path / "run").fit(max_steps=2)
    config = tmp_path / "run" / "config.yaml"
    text = config.read_text()
    config.write_text(text.replace("lr: 0.05", "lr: 0.5"))
    with pytest.raises(CheckpointError, match=r"written with optim.lr = 0.05 and config.yaml now says 0.5"):
        resumed_trainer(tmp_path / "run")
    config.write_text(text)
    path = tmp_path / "run" / "checkpoints" / "last.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="damaged"):
        resumed_trainer(tmp_path / "run")


def test_tensorboard_gets_the_figures(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    new_trainer(tiny(train={"tensorboard": True, "epochs": 1}), tmp_path / "run").fit()
    board = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    board.Reload()
    losses = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    expected = [(r["step"], pytest.approx(r["loss"])) for r in losses if r["kind"] == "step"]
    assert [(e.step, e.value) for e in board.Scalars("train/loss")] == expected
    assert "test_epoch/accuracy" in board.Tags()["scalars"]

"""What is not finite stays out of running statistics and checkpoints, and is named wherever it is met."""

import pytest
import torch
import torch.nn.functional as F
from typer.testing import CliRunner

import isospike as iso
from isospike.cli.app import app
from isospike.data import load_dataset
from isospike.errors import CheckpointError, IsospikeWarning, RunFailed
from isospike.finite import first_bad_place, not_finite
from isospike.layers import BatchNorm, PerStepNorm
from isospike.report.sections.summary import figures_of
from isospike.run_folder import RunFolder
from isospike.train.build import load_trained
from isospike.weights import load_tensors, save_tensors
from test_step import with_fused_optimizer
from test_trainer import new_trainer, resumed_trainer, tiny

NAN, INF = float("nan"), float("inf")


def statistics(model):
    return {name: buffer.clone() for name, buffer in model.named_buffers() if "running" in name}


def same(a, b):
    return all(torch.equal(a[name], b[name]) for name in a)


def test_names_of_what_is_not_finite():
    good, count = torch.ones(2), torch.tensor([7])
    assert not_finite({"a": good, "n": count, "empty": torch.empty(0)}) == ""
    assert not_finite({"a": good, "b": torch.tensor([1, NAN]), "n": count}) == "'b'"
    assert not_finite({"a": torch.tensor(-INF), "b": good, "c": torch.tensor([NAN]), "d": good + INF}) == (
        "'a' and 2 more tensors"
    )


# Running statistics ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
def test_a_channel_that_is_not_finite_stays_and_the_others_move(bad):
    norm, x = BatchNorm(3).double(), torch.randn(4, 3, 5, 5, dtype=torch.float64)
    x[2, 1, 0, 0] = bad
    norm(x)
    for running, start, now in (
        (norm.running_mean, 0.0, x.mean((0, 2, 3))),
        (norm.running_var, 1.0, x.var((0, 2, 3))),
    ):
        torch.testing.assert_close(running[[0, 2]], 0.9 * start + 0.1 * now[[0, 2]])
        assert running[1] == start


@pytest.mark.parametrize("topology", iso.TOPOLOGIES)
@pytest.mark.parametrize("per_step", [False, True])
@pytest.mark.parametrize("memory", ["fast", "lean"])
@pytest.mark.usefixtures("each_backend")
def test_a_batch_that_is_not_finite_is_not_remembered(topology, per_step, memory):
    model = iso.create_model(f"{topology}_resnet8", T=2, width=4, per_step_norm=per_step)
    assert per_step == any(isinstance(module, PerStepNorm) for module in model.modules())
    model.memory = memory
    x = torch.randn(2, 2, 3, 8, 8)
    bad = x.clone()
    bad[0, 0, :, 0, 0] = NAN
    start = statistics(model)
    F.cross_entropy(model(bad), torch.arange(2)).backward()
    after_bad = statistics(model)
    assert not_finite(after_bad) == ""
    assert torch.equal(start["stem.norm.running_mean"], after_bad["stem.norm.running_mean"])
    model(x)
    assert not same(statistics(model), after_bad)


@pytest.mark.parametrize("parts", [1, 2])
def test_statistics_of_a_step_that_is_left_out_are_left_out_too(tmp_path, parts):
    """The activations are finite, a gradient is not: fp16 goes on, and lowers its scale."""
    trainer = new_trainer(tiny(train={"precision": "fp16", "accumulate": parts}), tmp_path / "run")
    start = statistics(trainer.model)
    hook = trainer.model.head.fc.weight.register_hook(lambda g: g * INF)
    trainer.fit(max_steps=2)
    assert same(start, statistics(trainer.model))
    hook.remove()
    trainer.fit(max_steps=3)
    assert all(not torch.equal(start[name], now) for name, now in statistics(trainer.model).items())


@pytest.mark.parametrize("fused", [False, True])
def test_statistics_are_those_from_before_when_a_run_fails(tmp_path, fused):
    trainer = new_trainer(tiny(), tmp_path / "run")
    if fused:
        trainer = with_fused_optimizer(trainer)
        trainer.readback.behind = 1
    trainer.fit(max_steps=2)
    before = statistics(trainer.model)
    trainer.model.head.fc.weight.register_hook(lambda g: g * NAN)
    with pytest.raises(RunFailed, match="the gradient is not finite at step 3"):
        trainer.fit()
    assert same(before, statistics(trainer.model))


@pytest.mark.parametrize("parts", [1, 2])
def test_a_step_moves_statistics_as_its_forwards_would(tmp_path, parts):
    trainer = new_trainer(tiny(train={"accumulate": parts}), tmp_path / "run")
    images, targets, labels = trainer._augmented(next(trainer.train_loader.epoch(0)))
    trainer.model.train()
    alone = iso.create_model("ms_resnet8", T=2, width=4, num_classes=3, in_channels=1)
    alone.load_state_dict(trainer.model.state_dict())
    trainer.step(images, targets, labels, stop=False)
    if parts == 1:
        alone(images)
        assert same(statistics(alone), statistics(trainer.model))
    else:  # the joint variance of two halves of a batch whose first layers see the same weights
        whole = alone.stem.conv(images)
        norm, near = trainer.model.stem.norm, {"rtol": 1e-5, "atol": 1e-6}
        torch.testing.assert_close(norm.running_mean, 0.1 * whole.mean((0, 2, 3)), **near)
        torch.testing.assert_close(norm.running_var, 0.9 + 0.1 * whole.var((0, 2, 3)), **near)


def test_a_run_in_fp16_that_meets_a_broken_image_ends_well(tmp_path):
    """Its last neurons hide from the loss what the stream carries; the batch is left out, and nothing remembers it."""
    trainer = new_trainer(tiny(train={"precision": "fp16", "ema": 0.5}), tmp_path / "run")
    augmented = trainer._augmented

    def broken_once(batch):
        images, *rest = augmented(batch)
        if trainer.state.step == 3:
            images[0, 0, 0, 0] = NAN
        return images, *rest

    trainer._augmented = broken_once
    said = []
    trainer.display.say = said.append
    assert trainer.fit() == "done"
    tensors, meta = load_tensors(trainer.run.checkpoint("last"))
    assert not_finite(tensors) == ""
    assert meta["state"]["left_out"] == trainer.state.left_out == 1
    counted = {
        kind: [r["left_out"] for r in trainer.run.read_metrics() if r["kind"] == kind and r["split"] == "train"]
        for kind in ("step", "epoch")
    }
    assert counted["step"][3] == sum(counted["step"]) == sum(counted["epoch"]) == 1
    assert [text.partition("; ")[2] for text in said if text.startswith("epoch")] == [
        "1 step left out, as the fp16 gradient was not finite" if count else "" for count in counted["epoch"]
    ]
    assert figures_of(trainer.run)["steps left out, fp16 gradient not finite"] == "1"


# Checkpoints ----------------------------------------------------------------------------------------------------------

PLACES = {
    "model.stem.norm.running_var": lambda trainer: trainer.model.stem.norm.running_var,
    "model.head.fc.bias": lambda trainer: trainer.model.head.fc.bias.data,
    "ema.stem.norm.running_mean": lambda trainer: trainer.learner.average.module.stem.norm.running_mean,
    "optim.momentum_buffer.head.fc.bias": lambda trainer: trainer.learner.optimizer.state[trainer.model.head.fc.bias][
        "momentum_buffer"
    ],
}


@pytest.mark.parametrize("name", PLACES)
def test_a_run_that_would_end_with_it_fails_by_its_name_and_keeps_the_checkpoint(tmp_path, name):
    trainer = new_trainer(tiny(train={"ema": 0.5}), tmp_path / "run")
    trainer.fit(max_steps=2)
    saved = trainer.run.checkpoint("last").read_bytes()
    PLACES[name](trainer)[0] = INF
    with pytest.raises(RunFailed) as said:
        trainer.fit(max_steps=2)
    assert f"after step 2, what is not finite is '{name}'. Try a lower optim.lr" in str(said.value)
    assert f"The last checkpoint, {trainer.run.checkpoint('last')}, is from before." in str(said.value)
    assert trainer.run.checkpoint("last").read_bytes() == saved
    assert resumed_trainer(tmp_path / "run").fit() == "done"


def test_it_is_found_at_the_end_of_the_epoch_and_no_checkpoint_is_promised_that_is_not_there(tmp_path):
    trainer = new_trainer(tiny(train={"checkpoint_every": 100}), tmp_path / "run")
    trainer.model.stem.norm.running_var[0] = NAN  # training does not read it
    with pytest.raises(RunFailed, match="after step 6, what is not finite is 'model.stem.norm.running_var'") as said:
        trainer.fit()
    assert "checkpoint" not in str(said.value)
    assert not trainer.run.checkpoint("last").exists()
    assert not trainer.run.weights.exists()


def poison(path, name, value=NAN):
    tensors, meta = load_tensors(path)
    tensors[name].view(-1)[0] = value
    save_tensors(path, tensors, meta)


def test_a_checkpoint_that_holds_it_is_not_resumed(tmp_path):
    """As runs of earlier versions may have left it."""
    trainer = new_trainer(tiny(), tmp_path / "run")
    trainer.fit(max_steps=2)
    poison(trainer.run.checkpoint("last"), "model.stem.norm.running_mean")
    with pytest.raises(CheckpointError, match="in 'model.stem.norm.running_mean', and training cannot go on"):
        resumed_trainer(tmp_path / "run")


# Loading and testing --------------------------------------------------------------------------------------------------


def test_weights_that_hold_it_are_loaded_with_a_warning(tmp_path):
    config = tiny()
    trainer = new_trainer(config, tmp_path / "run")
    trainer.fit(max_steps=2)
    path = trainer.run.checkpoint("last")
    poison(path, "model.stem.norm.running_mean")
    dataset = load_dataset(config.data)
    shape = {"num_classes": len(dataset.classes), "in_channels": dataset.channels, "which": "last"}
    with pytest.warns(IsospikeWarning, match="last.safetensors holds .* not finite, in 'stem.norm.running_mean'"):
        load_trained(RunFolder(tmp_path / "run"), config, **shape)
    iso.save_pretrained(iso.create_model("sew_resnet8"), tmp_path / "saved")
    poison(tmp_path / "saved" / "model.safetensors", "head.fc.bias", INF)
    with pytest.warns(IsospikeWarning, match="not finite, in 'head.fc.bias': nothing that this network says can be"):
        iso.from_pretrained(tmp_path / "saved")


def test_a_test_whose_loss_is_not_finite_is_no_result(tmp_path):
    trainer = new_trainer(tiny(), tmp_path / "run")
    trainer.model.head.fc.bias.data[0] = NAN
    with pytest.raises(RunFailed, match="loss of the test is not finite: the parameter 'head.fc.bias' holds values"):
        trainer._test()


def test_the_guard_reads_the_statistics_that_the_network_reads():
    model, x = iso.create_model("ms_resnet8", T=2, width=4), torch.randn(2, 3, 8, 8)
    model.stem.norm.running_mean[0] = NAN
    assert first_bad_place(model, lambda: model(x)).startswith("every layer's output is finite")
    before = statistics(model)
    place = first_bad_place(model.eval(), lambda: model(x))
    assert place == "the buffer 'stem.norm.running_mean' holds values that are not finite"
    assert torch.equal(before["stem.norm.running_var"], model.stem.norm.running_var)


def test_the_command_line_names_it(tmp_path):
    trainer = new_trainer(tiny(), tmp_path / "run")
    trainer.fit(max_steps=2)
    poison(trainer.run.checkpoint("last"), "model.stem.norm.running_mean")
    for option in ([], ["--fast"]):
        with pytest.warns(IsospikeWarning, match="not finite, in 'stem.norm.running_mean'"):
            assert CliRunner().invoke(app, ["eval", *option, str(tmp_path / "run")]).exit_code == 0

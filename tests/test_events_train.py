"""Recordings through trainer, test, planner and commands, along an axis of time that is nobody's batch."""

import json

import pytest
import torch

import event_files
import isospike as iso
from isospike.config import parse_yaml, read_config
from isospike.data import Augment, AugmentSpec, load_dataset
from isospike.errors import ConfigError
from isospike.evaluation.confused import Confused
from isospike.layers import BatchNorm
from isospike.run_folder import RunFolder
from isospike.train.build import load_trained
from isospike.train.plan import plan_training
from test_cli import call
from test_events_data import cifar10_dvs, dvs_gesture, write
from test_trainer import new_trainer

T = 3
BASE = """
recipe: tiny
model: {name: ms_resnet8, T: 3, width: 4}
optim: {kind: sgd, lr: 0.05}
schedule: {kind: constant}
train: {epochs: 2, batch_size: 8, tensorboard: false}
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """N-MNIST's folders: four recordings of each digit for training, one for testing."""
    root = tmp_path_factory.mktemp("nmnist")
    for split, count in {"Train": 4, "Test": 1}.items():
        for digit in range(10):
            (root / split / str(digit)).mkdir(parents=True)
            for n in range(count):
                events = event_files.some_events(80, seed=10 * n + digit + 100 * (split == "Test"))
                content = event_files.bits40([(t, x % 34, (y + digit) % 34, p) for t, x, y, p in events])
                (root / split / str(digit) / f"{n}.bin").write_bytes(content)
    return {"kind": "nmnist", "dir": str(root), "cache": str(root.parent / "cache"), "T": T, "size": 8}


def config(data, **parts):
    values = parse_yaml(BASE, "BASE")
    return read_config({**values, "data": data, **{k: {**values.get(k, {}), **v} for k, v in parts.items()}}, "tiny")


@pytest.mark.parametrize("parts", [2, 4])
def test_a_batch_is_cut_along_recordings_and_not_along_time(data, tmp_path, parts):
    """With the norms in eval, where they do not tie recordings together, the parts must add up to the whole."""
    gradients = {}
    for cut in (1, parts):
        trainer = new_trainer(config(data, train={"accumulate": cut}), tmp_path / str(cut))
        batch = next(trainer.train_loader.epoch(0))
        assert batch.images.shape == (T, 8, 2, 8, 8)
        for module in trainer.model.train().modules():
            if isinstance(module, BatchNorm):
                module.eval()
                module.weight.data.fill_(1.0)
        images, targets = trainer.augment.train(batch.images, batch.labels, batch.seed)
        loss, correct = trainer.step.forward_backward(images, targets, batch.labels)
        gradients[cut] = [p.grad.clone() for p in trainer.model.parameters()], loss, correct
    torch.testing.assert_close(gradients[parts], gradients[1])


def test_the_result_of_the_test_is_that_of_each_recording_alone(data, tmp_path):
    trainer = new_trainer(config(data, augment={"roll": 1, "keep_steps": 2, "drop": 0.1}), tmp_path / "run")
    trainer.fit()
    run, dataset = RunFolder(tmp_path / "run"), load_dataset(trainer.config.data)
    model = load_trained(run, trainer.config, num_classes=10, in_channels=2, which="last")
    augment = Augment(AugmentSpec(), dataset.mean, dataset.std, 10)
    alone = [model(augment.test(x)).argmax() for x in dataset.test.batches(list(torch.arange(10).split(1)), 0)]
    right = int((torch.stack(alone) == dataset.test.labels).sum())
    result = json.loads(run.analysis("test").read_text())
    assert result["accuracy"] == right / 10
    assert len(result["accuracy_after"]) == T


def test_commands_take_a_run_on_recordings(data, tmp_path, capsys):
    path = tmp_path / "recipe.yaml"
    path.write_text(config(data).to_yaml())
    run = tmp_path / "run"
    call("train", "--recipe", path, "--out", run)
    for command in (["eval"], ["eval", "--fast"], ["analyze", "--batch", "4"], ["energy", "--images", "6"], ["report"]):
        call(command[0], run, *command[1:])
    assert json.loads((run / "analysis/data.json").read_text())["T"] == T
    assert json.loads((run / "analysis/isometry.json").read_text())["batch"] == 4
    assert iso.from_pretrained(run).inputs.T == T
    with pytest.raises(ConfigError, match="trained on recordings of events in 3 steps, and this reads images"):
        iso.load_run(run)


@pytest.mark.parametrize(
    ("recipe", "files"),
    [
        ("dvs_gesture_ds_resnet20", dvs_gesture),
        ("dvs_gesture_sew_7b_net", dvs_gesture),
        ("cifar10_dvs_ms_resnet20", cifar10_dvs),
        ("cifar10_dvs_ds_resnet14", lambda: cifar10_dvs(101)),
    ],
)
def test_a_folder_as_downloaded_trains_by_the_recipes_of_its_sources(recipe, files, tmp_path):
    """Nothing is set but what makes the network small: the first step is that of the recipe."""
    write(tmp_path / "data", files())
    small = ["train.batch_size=2", f"data.cache={tmp_path / 'cache'}", "train.tensorboard=false"]
    small += [] if recipe.endswith("_net") else ["model.width=4"]
    run = tmp_path / "run"
    options = [part for text in small for part in ("--set", text)]
    call("train", "--recipe", recipe, "--data-dir", tmp_path / "data", "--out", run, "--max-steps", "1", *options)
    (step,) = [record for record in RunFolder(run).read_metrics() if record["kind"] == "step"]
    assert 0 < step["loss"] < 100


def test_a_model_of_other_steps_is_refused(data, tmp_path):
    with pytest.raises(ConfigError, match="recordings of nmnist have T=3 steps and the model runs T=4: set model.T=3"):
        new_trainer(config(data, model={"T": 4}), tmp_path / "run")
    with pytest.raises(ConfigError, match="augment.keep_steps=4 is more than the 3 steps"):
        new_trainer(config(data, augment={"keep_steps": 4}), tmp_path / "other")


def test_the_plan_knows_the_steps_of_recordings():
    """The stem runs at every step, not once as of images."""
    model = iso.create_model("ms_resnet8", T=4, width=8, in_channels=2)
    sizes = {"batch": 4, "size": 16, "memory": "fast"}
    images, four, eight = (plan_training(model, **sizes, steps=steps).alive for steps in (None, 4, 8))
    assert images < four
    assert 1.8 < eight / four < 2.1


def test_a_picture_of_a_recording_shows_where_it_became_brighter():
    counts = torch.zeros(T, 2, 2, 4, 4, dtype=torch.int32)
    counts[:, 1, 1, 0, 0], counts[0, 1, 0, 3, 3] = 300, 450
    seen = Confused()
    seen.add(counts, torch.tensor([0, 0]), torch.tensor([[1.0, 0.0], [0.0, 9.0]]), torch.tensor([5, 6]))
    (picture,) = seen._kept
    assert picture.index == 6
    assert torch.equal(picture.pixels, counts[:, 1])
    assert seen.images()[0].png

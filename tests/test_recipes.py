import pytest
import torch

from isospike.config import SyntheticData
from isospike.data import load_dataset
from isospike.errors import ConfigError, UnknownName
from isospike.recipes import describe_recipe, list_recipes, load_recipe
from isospike.run_folder import RunFolder
from isospike.train import Trainer
from isospike.train.display import SilentDisplay
from isospike.train.distributed import World


@pytest.mark.parametrize("recipe", list_recipes())
def test_every_recipe_runs_two_steps_on_synthetic_images(tmp_path, recipe):
    small = ["train.batch_size=4", "train.accumulate=1", "train.tensorboard=false", "model.T=2"]
    config = load_recipe(recipe, small)
    data = SyntheticData(kind="synthetic", classes=5, channels=3, size=32, train=8, test=4)
    config = config.model_copy(update={"data": data})
    run = RunFolder(tmp_path / "run")
    run.create(config, {})
    trainer = Trainer(config, load_dataset(data), run, World(0, 1, torch.device("cpu")), SilentDisplay())
    trainer.fit(max_steps=2)
    assert [r["step"] for r in run.read_metrics() if r["kind"] == "step"] == list(
        range(config.train.log_every, 3, config.train.log_every)
    )
    assert trainer.state.step == 2


@pytest.mark.parametrize("recipe", list_recipes())
def test_every_recipe_says_source_command_time_and_result(recipe):
    text = describe_recipe(recipe)
    for word in ("source", "command", "time", "result"):
        assert f"\n{word} " in text, word
    assert f"isospike train --recipe {recipe}" in text
    config = load_recipe(recipe)
    assert config.recipe == recipe
    assert recipe.endswith(config.model.name.split(".")[0])


def test_a_base_is_read_first_and_another_kind_replaces_the_whole_part(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("base: cifar10_ms_resnet20\noptim: {kind: adamw, lr: 1e-3}\nschedule: {kind: constant}\n")
    config, base = load_recipe(str(path)), load_recipe("cifar10_ms_resnet20")
    assert config.recipe == "mine"
    assert config.optim.model_dump()["kind"] == "adamw"
    assert config.schedule.model_dump() == {"kind": "constant", "warmup_epochs": 0.0}
    assert config.data == base.data
    path.write_text("base: cifar10_ms_resnet20\ntrain: {epochs: 3}\n")
    assert load_recipe(str(path)).train == base.train.model_copy(update={"epochs": 3})


def test_wrong_recipes_are_answered(tmp_path):
    with pytest.raises(UnknownName, match="unknown recipe 'cifar10_ms_resnet2'; nearest: cifar10_ms_resnet20"):
        load_recipe("cifar10_ms_resnet2")
    loop = tmp_path / "loop.yaml"
    loop.write_text(f"base: {loop}\n")
    with pytest.raises(ConfigError, match="its base leads back to itself"):
        load_recipe(str(loop))
    empty = tmp_path / "empty.yaml"
    empty.write_text("seed: 1\n")
    with pytest.raises(ConfigError, match=r"recipe .*empty.yaml: the key 'model' is missing \(and 4 more\)"):
        load_recipe(str(empty))

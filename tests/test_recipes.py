import re
from dataclasses import replace

import pytest
import torch

from isospike.data import DATA, load_dataset
from isospike.data.recordings import POLARITIES, FrameData
from isospike.data.synthetic import SyntheticData
from isospike.errors import ConfigError, UnknownName
from isospike.models import create_model
from isospike.processes import World
from isospike.recipes import describe_recipe, list_recipes, load_recipe
from isospike.run_folder import RunFolder
from isospike.train import Trainer
from isospike.train.display import SilentDisplay

# What the name of a recipe begins with, by the kind of its data.
PREFIXES = {
    "digits": "digits",
    "cifar10": "cifar10",
    "cifar100": "cifar100",
    "folder": "(imagenet|folder)",
    "simulated_camera": "camera_(digits|cifar10)",
    "cifar10_dvs": "cifar10_dvs",
    "dvs_gesture": "dvs_gesture",
    "nmnist": "nmnist",
}
# Recipes to be compared with each other.
COMPARED = (
    r"digits_\w+_resnet\d+",
    r"cifar10_(?!ds_|dvs_)\w+_resnet(20|56)",
    r"cifar10_ds_\w+",
    r"imagenet_vanilla_resnet\d+_if|imagenet_sew_\w+",
    r"imagenet_(da|ds)_\w+",
    r"camera_cifar10_\w+",
)


def tiny(config, tmp_path):
    """Images for two steps; recordings of them, as large as the network needs, where it is one of events."""
    events = isinstance(config.data, FrameData)
    side = size_of(config) if config.model.name.endswith("_net") else 32
    images = SyntheticData(kind="synthetic", classes=5, channels=1 if events else 3, size=side, train=4, test=2)
    if not events:
        return images
    camera = DATA["simulated_camera"]
    return camera(kind="simulated_camera", images=images, T=2, samples=4, cache=str(tmp_path / "cache"))


def size_of(config):
    """Pixels to a side of what the network of a recipe reads."""
    data = config.data
    return getattr(data, "size", None) or max(getattr(data, "sensor", (32,)))


@pytest.mark.parametrize("recipe", list_recipes())
def test_every_recipe_runs_two_steps_on_synthetic_images(tmp_path, recipe):
    """As deep as it is, but narrow: width changes nothing in what runs, and most of the time and of the checkpoint."""
    small = ["train.accumulate=1", "train.tensorboard=false", "model.T=2"]
    if recipe.endswith("_net"):  # it has one width, for large frames
        small += ["train.batch_size=1", "train.precision=fp32"]
    else:
        small += ["train.batch_size=2", "model.width=4"]
    config = load_recipe(recipe, small)
    data = tiny(config, tmp_path)
    keep = config.augment.keep_steps and 1
    config = config.model_copy(update={"data": data, "augment": config.augment.model_copy(update={"keep_steps": keep})})
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
    config = load_recipe(recipe)
    assert config.recipe == recipe
    if recipe.endswith("_sweep"):  # of networks that the command names
        assert f"isospike sweep --recipe {recipe}" in text
        assert recipe == f"{PREFIXES[config.data.kind]}_sweep"
        return
    assert f"isospike train --recipe {recipe}" in text
    assert re.fullmatch(rf"{PREFIXES[config.data.kind]}_{config.model.name}(_[a-z0-9]+)?", recipe)


def test_every_recipe_at_its_full_width_takes_its_images():
    """Without memory: of the size that it is trained on, and of the size that it is tested on.

    Of networks that differ in their number of units alone, which changes no map, the shallowest runs.
    """
    shallowest = {}
    for recipe in list_recipes():
        config = load_recipe(recipe)
        channels = POLARITIES if isinstance(config.data, FrameData) else 3
        with torch.device("meta"):
            model = create_model(**config.model.model_dump(), in_channels=channels).eval()
        sizes = tuple({size_of(config), getattr(config.data, "test_size", None) or size_of(config)})
        key = repr((model.topology, replace(model.layout, blocks=()), channels, sizes))
        found = shallowest.setdefault(key, (recipe, model, sizes))
        if sum(model.layout.blocks) < sum(found[1].layout.blocks):
            shallowest[key] = recipe, model, sizes
    for recipe, model, sizes in shallowest.values():
        for size in sizes:
            logits = model(torch.empty(1, model.in_channels, size, size, device="meta"), T=1)
            assert logits.shape == (1, model.options["num_classes"]), recipe


@pytest.mark.parametrize("names", COMPARED)
def test_recipes_to_be_compared_differ_in_their_network_alone(names):
    configs = [load_recipe(recipe) for recipe in list_recipes() if re.fullmatch(names, recipe)]
    assert len(configs) > 2
    first = configs[0]
    with torch.device("meta"):
        (_,) = {create_model(**config.model.model_dump()).T for config in configs}
    for config in configs:
        assert config.model_copy(update={"recipe": first.recipe, "model": first.model}) == first, config.recipe


def test_the_larger_test_is_all_that_sets_the_two_recipes_of_ms_resnet104_apart():
    small, large = load_recipe("imagenet_ms_resnet104"), load_recipe("imagenet_ms_resnet104_288")
    larger = small.data.model_copy(update={"test_size": 288, "test_resize": 320})
    assert large == small.model_copy(update={"recipe": large.recipe, "data": larger})


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
    with pytest.raises(UnknownName, match=r"unknown recipe 'cifar10_ms_resnet2'; nearest: .*cifar10_ms_resnet20"):
        load_recipe("cifar10_ms_resnet2")
    loop = tmp_path / "loop.yaml"
    loop.write_text(f"base: {loop}\n")
    with pytest.raises(ConfigError, match="its base leads back to itself"):
        load_recipe(str(loop))
    empty = tmp_path / "empty.yaml"
    empty.write_text("seed: 1\n")
    with pytest.raises(ConfigError, match=r"recipe .*empty.yaml: the key 'model' is missing \(and 4 more\)"):
        load_recipe(str(empty))

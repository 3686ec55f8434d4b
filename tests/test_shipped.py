"""The weights that come with the package are those that their cards speak of."""

import hashlib

import pytest
import torch

import isospike as iso
from isospike.data import Augment, Loader, load_dataset
from isospike.errors import ConfigError, UnknownName
from isospike.evaluation import FastNetwork, evaluate
from isospike.models import WEIGHTS
from isospike.processes import open_world
from isospike.recipes import load_recipe
from isospike.weights import shipped_weights
from isospike.weights.shipped import FOLDER
from test_cli import call

CARDS = shipped_weights()


def test_they_take_less_than_5_megabytes():
    assert {path.name for path in FOLDER.iterdir() if path.is_dir() and path.name[0] != "_"} == {*CARDS}
    assert sum(path.stat().st_size for path in FOLDER.rglob("*")) < 5e6


@pytest.mark.parametrize("name", CARDS)
def test_the_card_is_that_of_the_file(name):
    card = CARDS[name]
    assert card["sha256"] == hashlib.sha256((FOLDER / name / "model.safetensors").read_bytes()).hexdigest()
    assert name.startswith(f"{load_recipe(card['recipe']).model.name}.")
    model = WEIGHTS[name]()
    assert not model.training
    assert card["parameters"] == sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("name", CARDS)
def test_it_reaches_the_accuracy_of_its_card(name):
    config, card = load_recipe(CARDS[name]["recipe"]), CARDS[name]
    dataset = load_dataset(config.data)
    net = WEIGHTS[name]()
    assert (net.inputs.mean, net.inputs.std, net.inputs.classes) == (dataset.mean, dataset.std, dataset.classes)
    augment = Augment(config.augment, dataset.mean, dataset.std, len(dataset.classes))
    loader = Loader(dataset.test, config.train.test_batch_size, shuffle=False, rank=0, world=1)
    with open_world("cpu") as world:
        tested = evaluate(FastNetwork(net, "float32"), loader, augment, world)
    assert (tested.accuracy, tested.count) == (card["accuracy"], card["test_images"])


def test_they_are_created_by_name_with_changes():
    model = iso.create_model("ms_resnet20", weights="digits", T=2)
    assert (model.T, model.in_channels, len(model.inputs.classes)) == (2, 1, 10)
    with pytest.warns(iso.errors.IsospikeWarning, match="the classifier for 4 classes is new"):
        assert iso.create_model("ms_resnet20", weights="digits", num_classes=4).head.fc.out_features == 4
    features = iso.create_model("ms_resnet20", weights="digits", features_only=True)
    same = iso.FeatureMaps(iso.create_model("ms_resnet20", weights="digits", num_classes=0))
    x = torch.randn(1, 1, 16, 16)
    assert all(torch.equal(a, b) for a, b in zip(features(x), same(x), strict=True))


def test_what_is_not_there_is_refused():
    with pytest.raises(UnknownName, match="unknown weights 'ms_resnet20.digit'; nearest: ms_resnet20.digits"):
        iso.create_model("ms_resnet20", weights="digit")
    with pytest.raises(ConfigError, match="are of a spiking network: leave them out"):
        iso.create_ann_twin("ms_resnet20", weights="digits")
    with pytest.raises(ConfigError, match="weights='digits' are of create_model"):
        iso.from_pretrained(FOLDER / "ms_resnet20.digits", weights="digits")
    with pytest.raises(ConfigError, match="has no checkpoints: leave 'best' out"):
        iso.load_run("ms_resnet20.digits", checkpoint="best")
    with pytest.raises(ConfigError, match="is not a run folder, and no weights of this name .* ms_resnet20.digits"):
        iso.load_run("ms_resnet20.digts")


def test_the_command_line_lists_them(capsys):
    call("models", "--weights")
    listed = capsys.readouterr().out
    assert all(name in listed and f"{card['accuracy']:.2%}" in listed for name, card in CARDS.items())
    call("models", "vgg*", "--weights", expect=2)
    assert "no weights match 'vgg*'" in capsys.readouterr().err

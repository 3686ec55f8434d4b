"""Finding a recipe, and what is said to the habits of other tools."""

import json

import pytest
import typer

from isospike.cli import app as cli
from isospike.cli.habits import KEYS, OPTIONS
from isospike.config import find_key
from isospike.recipes import describe_recipe, list_recipes
from test_cli import call

MISTAKES = {
    ("recipes", "cifar10_ms_resnt20"): "unknown recipe 'cifar10_ms_resnt20'; nearest: cifar10_ms_resnet20",
    ("recipes", "mz_*"): "no recipe matches 'mz_*'; isospike recipes lists all",
    ("train", "--model", "ms_resnet8"): "isospike train has no option --model: write --set model.name=ms_resnet8",
    (
        "train",
        "--recipe",
        "digits_ms_resnet20",
        "--epochs=3",
    ): "isospike train has no option --epochs: write --set train.epochs=3",
    ("train", "--lr", "0.1"): "isospike train has no option --lr: write --set optim.lr=0.1",
    ("train", "--batch-size", "--seed", "1"): "no option --batch-size: write --set train.batch_size=VALUE",
    ("train", "--data", "photos"): "isospike train has no option --data: write --data-dir photos",
    ("train", "--dataset", "cifar10"): "isospike train has no option --dataset: write --set data.kind=cifar10",
}


@pytest.mark.parametrize("arguments", MISTAKES, ids=" ".join)
def test_a_mistake_is_answered_by_what_does_it_here(arguments, capsys):
    call(*arguments, expect=2)
    (said,) = capsys.readouterr().err.strip().split("\n")
    assert said.startswith("error: ")
    assert MISTAKES[arguments] in said


def test_recipes_as_a_list_as_json_and_one_whole(capsys):
    call("recipes", "cifar10_ms_*")
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list_recipes("cifar10_ms_*")
    assert "cifar10_ms_resnet20   MS-ResNet-20 on CIFAR-10." in lines
    call("recipes", "*_ms_resnet20", "--json")
    recipes = json.loads(capsys.readouterr().out)
    assert [recipe["recipe"] for recipe in recipes] == list_recipes("*_ms_resnet20")
    assert all(recipe["about"].startswith(recipe["title"].split()[0]) for recipe in recipes)
    call("recipes", "cifar10_ms_resnet20")
    said = capsys.readouterr().out
    assert said == describe_recipe("cifar10_ms_resnet20") + "\n"
    call("recipes")
    assert len(capsys.readouterr().out.splitlines()) == len(list_recipes())


@pytest.mark.parametrize("word", KEYS)
def test_every_other_word_for_a_key_leads_to_one_that_exists(word):
    part, key = KEYS[word].split(".")
    assert find_key(part if key == "kind" else key) == KEYS[word]


@pytest.mark.parametrize("word", OPTIONS)
def test_every_other_word_for_an_option_leads_to_one_that_exists(word):
    train = typer.main.get_command(cli.app).commands["train"]
    assert OPTIONS[word] in [name for parameter in train.params for name in parameter.opts]


@pytest.mark.parametrize(
    ("word", "key"),
    [("model", "model.name"), ("optim", "optim.kind"), ("momentum", "optim.momentum"), ("precision", "train.precision"),
     ("T", "model.T"), ("cutout", "augment.cutout"), ("size", "data.size"), ("seed", "seed"), ("train", None),
     ("name", None), ("kind", None), ("recpie", None)],
)  # fmt: skip
def test_keys_are_found_by_their_last_part(word, key):
    assert find_key(word) == key

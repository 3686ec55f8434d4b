"""``isospike convert``: a trained ANN in, a folder out that every other command reads; mistakes are sentences."""

import json
import shutil

import pytest
import torch
from PIL import Image

import isospike as iso
from isospike.conversion import METHODS
from isospike.data import Augment, AugmentSpec, load_dataset
from isospike.data.digits import DigitsData
from isospike.errors import CheckpointError, ConfigError
from isospike.models import ProgramNet
from isospike.run_folder import RunFolder
from isospike.weights import load_tensors
from report_runs import read
from test_cli import call

SMALL = ("--set", "model.width=4", "--set", "train.tensorboard=false")
FEW = ("--images", "120", "--test-images", "80")

OWN = '''
import torch
from torch import nn


class Own(nn.Sequential):
    """Trained elsewhere."""


def ann(channels=1, classes=10):
    torch.manual_seed(0)
    layers = nn.Conv2d(channels, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(256, classes)
    return Own(*layers).eval()


def training():
    return ann().train()


def diverged():
    found = ann()
    found[0].weight.data[0] = float("nan")
    return found


def silent():
    found = ann()
    found[0].weight.data.zero_()
    found[0].bias.data.fill_(-1.0)
    return found


def without_statistics():
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4, track_running_stats=False), nn.ReLU()).eval()


def of_three():
    return ann(classes=3)


def of_colours():
    return ann(channels=3)


def number():
    return 5


def broken():
    return ann(depth=3)
'''


@pytest.fixture(scope="module")
def ann(tmp_path_factory):
    """The run of a small ANN on the digits."""
    folder = tmp_path_factory.mktemp("convert") / "ann"
    call("train", "--recipe", "digits_vanilla_resnet8_ann", *SMALL, "--set", "train.epochs=3", "--out", folder)
    return folder


@pytest.fixture(scope="module")
def converted(ann, tmp_path_factory):
    folder = tmp_path_factory.mktemp("converted") / "snn"
    call("convert", ann, "--method", "mmse", "-T", "6", *FEW, "--out", folder)
    return folder


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """One file for all tests: a module of its name is imported once."""
    path = tmp_path_factory.mktemp("own") / "own_ann.py"
    path.write_text(OWN)
    return path


def results(folder, name):
    return json.loads((folder / "analysis" / f"{name}.json").read_text())


def test_an_ann_trains_by_recipe_and_its_report_asks_for_nothing_that_it_lacks(ann):
    assert results(ann, "test")["accuracy"] > 0.7
    page = read(RunFolder(ann))
    assert "isospike analyze" in page.text
    assert "isospike energy" not in page.text
    assert "Firing" not in page.headings
    assert iso.from_pretrained(ann).options["neuron"] == {"kind": "relu"}


def test_it_says_the_ann_first_and_what_to_take_last(ann, tmp_path, capsys):
    call("convert", ann, "--method", "mmse", "-T", "6", *FEW, "--out", tmp_path / "snn")
    said = capsys.readouterr().out
    assert said.startswith("the ANN, vanilla_resnet8: accuracy ")
    assert " on 80 test images of digits at 8 pixels\nconverting by mmse on 120 training images" in said
    for part in ("spikes per neuron", "opening.spike", "early exit", "costs most", "the ANN, dense, takes"):
        assert part in said
    assert f"train it on: isospike train --from {tmp_path / 'snn'}" in said


def test_the_folder_is_the_conversion(ann, converted):
    found = results(converted, "conversion")
    assert found["method"] == "mmse"
    assert (found["images"], found["calibration"], found["T"]) == (80, 120, 6)
    assert len(found["accuracy"]) == 6
    net = iso.from_pretrained(converted)
    assert isinstance(net, ProgramNet)
    assert net.T == 6
    assert iso.from_pretrained(converted, T=3).T == 3
    tested = results(converted, "test")
    assert tested["accuracy_after"] == pytest.approx(found["accuracy"])
    before, kept = iso.from_pretrained(ann), iso.from_pretrained(converted / "ann")
    images = torch.randn(4, 1, 8, 8)
    torch.testing.assert_close(kept(images), before(images))
    assert iso.convert(before, torch.randn(60, 1, 8, 8), method="mmse", T=6).units.keys() == net.units.keys()


def test_calibration_sees_no_test_image_and_the_test_all_that_it_says(ann, tmp_path, monkeypatch):
    """Images of training are told from those of the test by their pixels."""
    seen = []

    def keep(method, program, batches, **options):
        seen.extend(batches)
        return method.function(program, batches, **options)

    monkeypatch.setattr(type(METHODS["max"]), "convert", keep)
    call("convert", ann, "--method", "max", "-T", "2", *FEW, "--out", tmp_path / "snn")
    data = load_dataset(DigitsData(kind="digits", size=8))
    shown = Augment(AugmentSpec(), data.mean, data.std, 10).test
    rows = {tuple(image.flatten().tolist()) for image in torch.cat(seen)}
    assert len(torch.cat(seen)) == 120
    assert rows <= {tuple(image.flatten().tolist()) for image in shown(data.train.images)}


def test_every_command_reads_the_folder(converted, tmp_path, capsys):
    tested = results(converted, "conversion")["accuracy"][-1]
    call("eval", converted, "--json")
    whole = json.loads(capsys.readouterr().out)
    assert whole["images"] == 355
    assert whole["accuracy"] == pytest.approx(tested, abs=0.1)
    for precision, tolerance in (("float32", 0.003), ("int8", 0.03)):
        call("eval", converted, "--fast", "--precision", precision, "--json")
        assert json.loads(capsys.readouterr().out)["accuracy"] == pytest.approx(whole["accuracy"], abs=tolerance)
    call("energy", converted, "--images", 20, "--json")
    energy = json.loads(capsys.readouterr().out)
    assert energy["T"] == 6
    assert [layer["reads"] for layer in energy["layers"]] == ["real", *["binary"] * 8, "real"]  # image, pool
    Image.new("L", (8, 8), 40).save(tmp_path / "digit.png")
    call("predict", converted, tmp_path / "digit.png", "--json")
    assert len(json.loads(capsys.readouterr().out)[0]["predictions"]) == 5
    call("analyze", converted, "--batch", 10, "--json")
    again = json.loads(capsys.readouterr().out)
    assert (again["method"], again["images"], again["calibration"]) == ("mmse", 355, 120)
    assert again["accuracy"][-1] == pytest.approx(whole["accuracy"], abs=0.003)
    assert results(converted, "conversion") == again
    call("report", converted)
    page = read(RunFolder(converted))
    assert page.headings[:3] == ["Summary", "Conversion", "Confusion"]
    assert "Converted, and not trained on. For fewer steps: isospike train --from" in page.text
    assert "costs most" in page.text
    assert "Architecture" not in page.headings
    assert "This cannot be shown" not in page.text


def test_a_converted_network_streams_and_its_convolutions_read_what_it_promises(converted):
    net = iso.from_pretrained(converted)
    images = torch.randn(3, 1, 8, 8)
    state = None
    with torch.no_grad():
        logits = net(images, T=4, per_step=True)
    for expected in logits:
        step, state = net.step(images, state)
        assert torch.equal(step, expected)
    edges = iso.check_edges(net, images)
    assert all(edge.kept for edge in edges)
    assert [edge.promised.largest for edge in edges].count(None) <= 2  # the stem, and the classifier behind the pool
    with iso.watch(net) as seen:
        net(images)
    assert seen.flow().spikes_per_neuron > 0


def test_training_on_from_a_converted_network_is_better_at_few_steps(converted, tmp_path, capsys):
    """A third of what it lost at T=2 comes back in 90 steps; the run is like any other."""
    before = results(converted, "conversion")
    lost = before["ann_accuracy"] - before["accuracy"][1]
    assert lost > 0.1
    begin = "train", "--from", converted, "--set", "model.T=2", "--set", "optim.lr=0.03", "--set", "train.epochs=2"
    begin += "--set", "train.tensorboard=false"
    run, at_once = RunFolder(tmp_path / "run"), RunFolder(tmp_path / "at_once")
    call(*begin, "--max-steps", 60, "--out", run.path)
    call("train", "--resume", run.path)
    assert results(run.path, "test")["accuracy"] > before["accuracy"][1] + lost / 3
    call(*begin, "--out", at_once.path)
    tensors, others = (load_tensors(folder.checkpoint("last"))[0] for folder in (run, at_once))
    assert all(torch.equal(tensor, others[name]) for name, tensor in tensors.items())
    capsys.readouterr()
    call("analyze", run.path, "--json")
    again = json.loads(capsys.readouterr().out)
    assert (again["method"], again["T"], again["images"]) == ("mmse", 2, 355)
    assert iso.load_run(run.path).model.T == 2
    call("report", run.path)
    assert "Conversion" in read(run).headings


def test_train_from_any_run_takes_its_configuration_and_weights(ann, tmp_path, capsys):
    call("train", "--from", ann, "--set", "train.epochs=1", "--max-steps", 1, "--out", tmp_path / "more")
    assert "training starts from the weights in" in capsys.readouterr().out
    config = RunFolder(tmp_path / "more").read_config()
    assert config.model == RunFolder(ann).read_config().model
    assert config.train.weights == str(ann)


def test_an_ann_of_ones_own(own, tmp_path, capsys):
    """Its file runs; the data and their normalisation are named; that it guesses is said first."""
    options = ("--set", "data.kind=digits", "--set", "data.mean=[0.5]", "--set", "data.std=[0.25]")
    call("convert", f"{own}:ann", *options, "-T", "4", *FEW, "--out", tmp_path / "snn")
    said = capsys.readouterr()
    assert said.out.startswith("the ANN, Own: accuracy ")
    assert (
        "reads other images than it was trained on: here they are normalised by mean [0.5] and std [0.25]" in said.err
    )
    data = results(tmp_path / "snn", "data")
    assert (data["mean"], data["std"]) == ([0.5], [0.25])
    call("eval", tmp_path / "snn")  # without the file
    assert iso.load_run(tmp_path / "snn").inputs.mean == (0.5,)


@pytest.mark.parametrize(
    ("function", "options", "sentence"),
    [
        ("training", (), "converted as it is tested, and it is in training mode: call ann.eval() first"),
        ("diverged", (), "'0.weight' of the ANN holds numbers that are not finite"),
        ("silent", (), "the activation of 1 is 0 on all calibration images"),
        ("without_statistics", (), "the batch norm '1' has no running statistics"),
        ("of_three", (), "the ANN tells 3 classes apart, and digits has 10: name the data"),
        ("of_colours", (), "Own does not take the calibration images, which are [B, 1, 8, 8]"),
        ("number", (), "must return a trained nn.Module, and returns a int"),
        ("broken", (), "own_ann.py, line"),
        ("an", (), "unknown function in"),
        (
            "ann",
            ("--images", "3", "--set", "method.quantile=0.9999"),
            "the quantile 0.9999 of 768 values is their largest",
        ),
        ("ann", ("--set", "method.levles=2"), "unknown option of method 's_resnet' 'levles'"),
        ("ann", ("--set", "method.quantile=high"), "--set method.quantile: input should be a valid number, got 'high'"),
        ("ann", ("--set", "method.T=4"), "--set method.T: give -T 4"),
        (
            "ann",
            ("--set", "optim.lr=4"),
            "--set of convert takes method.OPTION=VALUE and keys of data, as data.size=8, got",
        ),
        ("ann", ("--method", "s_resnte"), "unknown method 's_resnte'; nearest: s_resnet"),
        ("ann", ("--loss", "1"), "--loss is a share of accuracy in [0, 1), as 0.01 for one point, got 1.0"),
        ("ann", ("--table", "45nm"), "unknown"),
        ("ann", ("--set", "data.mean=[0.1, 0.2]"), "data.mean is a number for each channel, of which digits has 1"),
        ("ann", ("--set", "data={kind: synthetic, classes: 10}"), "does not take the calibration images"),
    ],
)
def test_what_cannot_be_converted_is_refused_and_nothing_is_written(own, tmp_path, capsys, function, options, sentence):
    call("convert", f"{own}:{function}", "--set", "data.kind=digits", *options, "--out", tmp_path / "snn", expect=2)
    assert sentence in capsys.readouterr().err.replace("\n", " ")
    assert not (tmp_path / "snn").exists()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("nowhere",), "there is no run folder nowhere; an ANN of your own is named as FILE.py:function"),
        (("nowhere.py:ann",), "there is no file nowhere.py to import"),
        (("own_ann.py",), "a function in a file is named as FILE.py:function, got 'own_ann.py'"),
        (("own_ann.py:ann",), "an ANN of your own does not say what its images are: name them with --set data.kind="),
    ],
)
def test_what_is_named_wrongly_is_answered(own, monkeypatch, capsys, arguments, sentence):
    monkeypatch.chdir(own.parent)
    call("convert", *arguments, expect=2)
    assert sentence in capsys.readouterr().err.replace("\n", " ")


def test_folders_that_are_taken_or_are_something_else(ann, converted, tmp_path, capsys):
    def refused(*arguments):
        call(*arguments, expect=2)
        return capsys.readouterr().err.replace("\n", " ")

    assert "already holds a run: name another --out" in refused("convert", ann, "--out", converted)
    assert "puts out spikes, so this network is a spiking one already" in refused(
        "convert", converted, "--out", tmp_path / "x"
    )
    assert f"was not trained here: go on with --from {converted}" in refused("train", "--resume", converted)
    on = ("train", "--from", converted, "--out", tmp_path / "x")
    assert "--from takes configuration and weights of a run: leave --recipe" in refused(*on, "--recipe", "digits_sweep")
    assert "model.width changes nothing of a converted network" in refused(*on, "--set", "model.width=8")
    assert "train.freeze names stem, and a converted network has no such parts" in refused(
        *on, "--set", "train.freeze=[stem]"
    )
    assert "is for 1 channels, and the data have 3" in refused(*on, "--set", "data={kind: synthetic, classes: 10}")
    assert "of the options it takes --batch alone" in refused("analyze", converted, "--probes", "2")
    assert not (tmp_path / "x").exists()


def test_too_few_steps_are_said(ann, tmp_path, capsys):
    call("convert", ann, "--method", "max", "-T", "1", *FEW, "--out", tmp_path / "snn")
    assert "in T=1 steps a neuron tells only 2 activations apart" in capsys.readouterr().err.replace("\n", " ")


def test_thresholds_that_were_learnt_are_taken_at_their_steps(tmp_path, capsys):
    run = tmp_path / "qcfs"
    call("train", "--recipe", "digits_vanilla_resnet8_qcfs", *SMALL, "--set", "train.epochs=1", "--out", run)
    call("convert", run, "--method", "qcfs", "-T", "2", *FEW, "--out", tmp_path / "two")
    assert "the ANN was trained to be read in L=4 steps, and T=2 tells fewer" in capsys.readouterr().err.replace(
        "\n", " "
    )
    call("convert", run, "--method", "qcfs", "-T", "4", *FEW, "--out", tmp_path / "four")
    assert "was trained to be read" not in capsys.readouterr().err
    layers = results(tmp_path / "four", "conversion")["layers"]
    assert layers[0]["error"] == pytest.approx(0, abs=1e-6)
    assert all(layer["clipping"] == pytest.approx(0, abs=1e-6) for layer in layers)
    assert all(layer["quantisation"] == pytest.approx(0, abs=0.05) for layer in layers)  # at ties of rounding


def test_a_damaged_network_is_named(converted, tmp_path):
    folder = tmp_path / "damaged"
    shutil.copytree(converted, folder)
    (folder / "network.json").write_text("{}")
    with pytest.raises(CheckpointError, match="the network in .*network.json cannot be built"):
        iso.from_pretrained(folder)
    (folder / "config.yaml").write_text((folder / "config.yaml").read_text().replace("network.json", "../network.json"))
    with pytest.raises(ConfigError, match="a network is the name of a JSON file in the run folder"):
        RunFolder(folder).read_config()

"""The compiled network behind ``isospike eval --fast`` and ``isospike predict``."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from helpers import TINY
from isospike.run_folder import RunFolder
from isospike.train.build import load_trained
from test_cli import call


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inference") / "run"
    call("train", *TINY, "--out", folder)
    return folder


def eval_json(run, capsys, *options):
    call("eval", run, "--json", *options)
    return json.loads(capsys.readouterr().out)


def test_eval_fast_finds_the_same_accuracy_and_says_how(run, capsys):
    plain = eval_json(run, capsys)
    assert "inference" not in plain
    for precision in ("float32", "int8"):
        fast = eval_json(run, capsys, "--fast", "--precision", precision)
        assert fast["inference"] == {"precision": precision}
        assert fast["images"] == plain["images"]
        assert fast["accuracy"] == pytest.approx(plain["accuracy"], abs=0.01 if precision == "float32" else 0.03)
        assert json.loads((run / "analysis" / "test.json").read_text()) == fast


def test_early_exit_reports_the_steps_it_took_and_the_report_is_made(run, capsys):
    fast = eval_json(run, capsys, "--fast", "--early-exit", "0.9")
    early = fast["inference"]["early_exit"]
    assert early["agreement"] == 0.9
    assert early["calibration"] == "1000 training images, of every class its share"
    assert 1 <= early["average_T"] <= early["T"] == 2
    call("eval", run, "--fast", "--early-exit", "0.9")
    assert f"compiled, float32, {early['average_T']:.2f} of 2 steps on average" in capsys.readouterr().out
    call("report", run)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--precision", "int8"), "--precision and --early-exit are of the compiled network: add --fast"),
        (("--early-exit", "0.9"), "--precision and --early-exit are of the compiled network: add --fast"),
        (("--fast", "--precision", "int3"), "precision must be one of float32, int8, got 'int3'"),
        (("--fast", "--early-exit", "2"), "the share of decisions that may not change must be in (0, 1], got 2.0"),
    ],
)
def test_what_makes_no_sense_is_refused(run, capsys, options, sentence):
    call("eval", run, *options, expect=2)
    assert sentence in capsys.readouterr().err


def test_predict_runs_the_compiled_network_and_gives_the_classes_of_the_model(run, capsys, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "digit.png")
    call("predict", run, tmp_path / "digit.png", "--json")
    guesses = json.loads(capsys.readouterr().out)[0]["predictions"]
    folder = RunFolder(run)
    data = folder.read_analysis("data")
    model = load_trained(folder, folder.read_config(), num_classes=10, in_channels=1, which="last")
    x = (torch.from_numpy(pixels)[None, None] / 255 - data["mean"][0]) / data["std"][0]
    with torch.no_grad():
        shares = model(x)[0].softmax(-1)
    assert [guess["probability"] for guess in guesses] == pytest.approx(shares.topk(5).values.tolist(), abs=0.02)
    assert guesses[0]["class"] == data["classes"][int(shares.argmax())]

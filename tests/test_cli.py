"""The command line as a person uses it: output, exit codes, and a sentence for every mistake."""

import itertools
import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from PIL import Image

import isospike
from helpers import TINY
from isospike.cli import app as cli
from isospike.run_folder import RunFolder


def call(*arguments, expect=0):
    """Run the command in this process; returns nothing, output is for capsys."""
    old, sys.argv = sys.argv, ["isospike", *map(str, arguments)]
    try:
        with pytest.raises(SystemExit) as left:
            cli.main()
    finally:
        sys.argv = old
    assert left.value.code in ((0, None) if expect == 0 else (expect,))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run of two epochs."""
    folder = tmp_path_factory.mktemp("cli") / "run"
    call("train", *TINY, "--out", folder)
    return folder


def test_the_surface_is_what_the_documentation_says():
    """The command line does not grow by accident: a new option belongs into this list and into the README."""
    commands = typer.main.get_command(cli.app).commands
    surface = {name: sorted(o for p in c.params for o in p.opts if o.startswith("--")) for name, c in commands.items()}
    assert surface == {
        "models": ["--import", "--json", "--memory", "--weights"],
        "recipes": ["--json"],
        "train": [
            *("--data-dir", "--device", "--from", "--import", "--max-steps", "--out", "--recipe", "--resume", "--seed"),
            *("--set", "--weights"),
        ],
        "eval": [
            "--checkpoint",
            "--data-dir",
            "--device",
            "--early-exit",
            "--fast",
            "--import",
            "--json",
            "--precision",
            "--set",
        ],
        "energy": ["--checkpoint", "--data-dir", "--device", "--images", "--import", "--json", "--layers", "--table"],
        "predict": [
            *("--checkpoint", "--count", "--device", "--format", "--import", "--json", "--late", "--restart"),
            *("--sensor", "--stream", "--window"),
        ],
        "export": ["--checkpoint", "--form", "--format", "--import", "--lossy", "--operators", "--out", "--precision"],
        "analyze": ["--batch", "--checkpoint", "--data-dir", "--device", "--import", "--json", "--probes", "--seed"],
        "bench": [
            *("--T", "--batch", "--compile", "--device", "--import", "--json", "--markdown", "--model", "--out"),
            *("--peer", "--peer-env", "--precision", "--repeats", "--seconds", "--setup", "--suite", "--work"),
        ],
        "report": ["--figures", "--import", "--out"],
        "serve": [
            *("--batch", "--checkpoint", "--delay", "--device", "--host", "--import", "--megabytes", "--port"),
            *("--rate", "--streams", "--timeout", "--waiting"),
        ],
        "show": ["--format", "--json", "--out", "--sensor", "--sort"],
        "convert": [
            *("--T", "--checkpoint", "--data-dir", "--images", "--import", "--json", "--loss", "--method", "--out"),
            *("--set", "--table", "--test-images"),
        ],
        "sweep": [
            "--data-dir", "--depths", "--device", "--figures", "--import", "--jobs", "--json", "--out", "--recipe",
            "--resume", "--seeds", "--set", "--topologies",
        ],
    }  # fmt: skip


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["models", "--help"], ["--version"]])
def test_help_and_version(arguments, capsys):
    call(*arguments)
    assert capsys.readouterr().out


def test_models_as_a_table_and_as_json(capsys):
    call("models", "ms_resnet1*")
    table = capsys.readouterr().out
    assert "ms_resnet104" in table
    assert "77,350,504" in table
    assert "sew" not in table
    call("models", "sew_*net*")
    table = capsys.readouterr().out
    assert "\nsew: if neurons at threshold 1; Fang" in table
    assert "\nsew_7b_net, sew_wide_7b_net: plif neurons at threshold 1; Fang" in table
    call("models", "ms_resnet26", "--json")
    (card,) = json.loads(capsys.readouterr().out)
    assert (card["name"], card["T"], card["parameters"]) == ("ms_resnet26", 6, 369690)


def test_a_run_leaves_its_folder(run):
    names = {path.name for path in run.iterdir()}
    assert names == {
        "config.yaml", "env.json", "metrics.jsonl", "flow.jsonl", "checkpoints", "model.safetensors", "analysis",
        "report.html", ".lock",
    }  # fmt: skip
    environment = json.loads((run / "env.json").read_text())
    assert environment["command"].startswith("isospike train --recipe digits_ms_resnet20")
    assert environment["packages"]["torch"]
    data = RunFolder(run).read_analysis("data")
    assert (data["name"], data["size"], data["classes"]) == ("digits", 8, [str(n) for n in range(10)])


def test_without_a_compiled_library_a_run_is_as_good_and_says_once_what_would_make_it_faster(tmp_path):
    """In a copy of the package that has none."""
    shutil.copytree(Path(isospike.__file__).parent, tmp_path / "isospike", ignore=shutil.ignore_patterns("_cpu*.so"))
    command = [sys.executable, "-m", "isospike", "train", *TINY, "--max-steps", "2", "--out", str(tmp_path / "run")]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (note,) = done.stderr.splitlines()
    assert note.startswith("note: backend 'cpu' leaves this to the eager reference")
    assert "install a C compiler" in note
    assert json.loads((tmp_path / "run" / "env.json").read_text())["compiled"] is False


def test_training_says_what_came_out(tmp_path, capsys):
    call("train", *TINY, "--out", tmp_path / "run", "--set", "train.epochs=1", "--seed", 7)
    said = capsys.readouterr().out
    for part in (
        "ms_resnet8, T=2",
        "1,442 training and 355 test images",
        "test accuracy: last epoch",
        "best epoch",
        "report:",
    ):
        assert part in said
    assert RunFolder(tmp_path / "run").read_config().seed == 7


@pytest.mark.parametrize("checkpoint", ["last", "best"])
def test_eval_repeats_the_test_of_training(run, capsys, checkpoint):
    tests = [r for r in RunFolder(run).read_metrics() if r["kind"] == "epoch" and r["split"] == "test"]
    expected = tests[-1] if checkpoint == "last" else max(tests, key=lambda r: r["accuracy"])
    call("eval", run, "--checkpoint", checkpoint, "--json")
    tested = json.loads(capsys.readouterr().out)
    assert (tested["accuracy"], tested["loss"], tested["images"]) == (expected["accuracy"], expected["loss"], 355)
    call("eval", run, "--checkpoint", checkpoint)
    assert f"accuracy {expected['accuracy']:.2%}" in capsys.readouterr().out
    assert RunFolder(run).read_analysis("test")["checkpoint"] == checkpoint


def test_energy_of_a_run(run, capsys):
    call("energy", run, "--images", 150, "--json")
    found = json.loads(capsys.readouterr().out)
    assert found == RunFolder(run).read_analysis("energy")
    assert (found["measured"], found["samples"], found["T"]) == (True, 150, 2)
    assert 0 < found["spikes_per_neuron"] < 2
    flow = RunFolder(run).read_analysis("flow")
    assert (flow["samples"], flow["T"], len(flow["units"])) == (100, 2, 3)
    raster = RunFolder(run).read_analysis("raster")
    assert (raster["T"], raster["of"], raster["guess"] in "0123456789") == (2, len(flow["neurons"]), True)
    call("energy", run, "--images", 50, "--layers", "--table", "45nm_int8")
    said = capsys.readouterr().out
    for part in ("per image of 50 test images of digits", "projections", "stages.1.0.branch.conv1", "binary",
                 "stem at every step", "estimates, in no total", "MAC 0.3 pJ, AC 0.1 pJ (Horowitz 2014"):  # fmt: skip
        assert part in said


def test_energy_of_a_name_is_what_papers_assume(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    call("energy", "ms_resnet18")
    said = capsys.readouterr().out
    for part in ("nothing was measured", "dense: 8.4", "2.08", "2.93", "5.65"):
        assert part in said
    call("energy", "vanilla_resnet18", "--json")
    found = json.loads(capsys.readouterr().out)
    assert (found["measured"], found["mj"]["reals_as_ac"]) == (False, found["mj"]["stem_once"])


def test_energy_of_a_run_half_written(run, tmp_path, capsys):
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "config.yaml").write_text((run / "config.yaml").read_text())
    call("energy", tmp_path / "half", expect=2)
    said = capsys.readouterr().err
    assert "checkpoints/last.safetensors does not exist" in said.replace("\n", "")


def test_predict_images_of_any_size_and_mode(run, tmp_path, capsys):
    paths = [tmp_path / "grey.png", tmp_path / "colour.jpg"]
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 12), dtype=np.uint8)).save(paths[0])
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (9, 30, 3), dtype=np.uint8)).save(paths[1])
    call("predict", run, *paths, "--json")
    results = json.loads(capsys.readouterr().out)
    assert [r["image"] for r in results] == [str(p) for p in paths]
    for result in results:
        shares = [p["probability"] for p in result["predictions"]]
        assert len(shares) == 5
        assert shares == sorted(shares, reverse=True)
        assert 0 < sum(shares) <= 1.0001
    call("predict", run, *paths)
    assert {str(p) for p in paths} <= set(capsys.readouterr().out.splitlines())


def test_analyze_a_run_and_show_it_in_the_report(run, capsys):
    call("analyze", run, "--batch", 6, "--probes", 2)
    said = capsys.readouterr().out
    assert said.startswith("ms_resnet8, last checkpoint, T=2, 6 test images of digits, 2 probes per unit, seed 0\n")
    assert "log10 of the product of all phi: " in said
    result = RunFolder(run).read_analysis("isometry")
    assert result["verdict"]["text"] in said
    assert [unit["stage"] for unit in result["units"]] == [1, 2, 3]
    assert [*result["gradients"]["inputs"]] == [unit["name"] for unit in result["units"]]
    call("analyze", run, "--batch", 6, "--probes", 2, "--json")
    assert json.loads(capsys.readouterr().out) == result
    call("analyze", run, "--batch", 6, "--probes", 2, "--checkpoint", "best", "--seed", 1, "--json")
    best = json.loads(capsys.readouterr().out)
    assert (best["checkpoint"], best["seed"]) == ("best", 1)
    assert best["units"] != result["units"]
    call("report", run)
    assert ">Isometry</h2>" in (run / "report.html").read_text()


def test_analyze_a_model_by_its_name(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    call("analyze", "ms_resnet14", "--batch", 2, "--json")
    result = json.loads(capsys.readouterr().out)
    identity = [unit for unit in result["units"] if not unit["projects"]]
    assert [unit["phi"] for unit in identity] == [{"value": 1.0, "low": 1.0, "high": 1.0}] * 4
    assert (result["model"], result["checkpoint"], result["images"]) == ("ms_resnet14", None, "random images")
    call("analyze", "ms_resnet14", "--batch", 2, "--json")
    assert json.loads(capsys.readouterr().out) == result
    call("analyze", "ms_resnet14", "--batch", 2, "--probes", 1)
    said = capsys.readouterr().out
    assert said.startswith("ms_resnet14, untrained, T=6, 2 random images")
    assert "trains at this depth" in said
    assert list(tmp_path.iterdir()) == []


def test_analyze_names_what_is_missing_or_foreign_in_a_run(run, tmp_path, capsys):
    half = tmp_path / "half"
    half.mkdir()
    (half / "config.yaml").write_text((run / "config.yaml").read_text())
    call("analyze", half, expect=2)
    assert "last.safetensors" in capsys.readouterr().err
    (half / "checkpoints").mkdir()
    (half / "checkpoints" / "last.safetensors").write_bytes((run / "checkpoints" / "last.safetensors").read_bytes())
    (half / "config.yaml").write_text((run / "config.yaml").read_text().replace("ms_resnet8", "ms_resnet14"))
    call("analyze", half, expect=2)
    assert "stages.0.1" in capsys.readouterr().err
    assert not (half / "analysis").exists()


def write_photographs(root):
    """Two classes of four photographs in each split, bright in the middle or at the edge, so that their size shows."""
    y, x = np.mgrid[-1:1:40j, -1:1:48j]
    for split, name in itertools.product(("train", "val"), ("ant", "cat")):
        folder = root / split / name
        folder.mkdir(parents=True)
        for number in range(4):
            bright = 255 * np.exp(-(2 + number) * (x**2 + y**2))
            grey = bright if name == "ant" else 255 - bright
            Image.fromarray(grey.astype(np.uint8)).convert("RGB").save(folder / f"{number}.png")


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """A run on photographs, trained at 16 pixels and tested at 24, and their folder."""
    root = tmp_path_factory.mktemp("photographs")
    write_photographs(root / "images")
    data = f"{{kind: folder, dir: {root / 'images'}, workers: 0, size: 16, test_resize: 32, test_size: 24}}"
    small = ["--set", "train.batch_size=4", "--set", "train.epochs=10", "--set", f"data={data}"]
    call("train", *TINY, *small, "--out", root / "run")
    return root / "run", root / "images"


def test_a_run_says_at_what_size_it_was_tested(photographs):
    run = RunFolder(photographs[0])
    data = run.read_analysis("data")
    assert (data["size"], data["test_size"], data["test_resize"]) == (16, 24, 32)
    assert run.read_analysis("model")["input_size"] == 16
    assert run.read_analysis("test")["size"] == 24


def test_eval_at_another_size(photographs, capsys):
    run, _ = photographs
    as_trained = RunFolder(run).read_analysis("test")
    assert "8 test images at 24 pixels, last checkpoint" in (run / "report.html").read_text()
    written = (run / "config.yaml").read_bytes()
    larger = ["--set", "data.test_size=32", "--set", "data.test_resize=40"]
    call("eval", run, *larger)
    assert "8 test images of images at 32 pixels: accuracy" in capsys.readouterr().out
    tested = RunFolder(run).read_analysis("test")
    assert (tested["size"], tested["images"]) == (32, 8)
    assert tested["loss"] != as_trained["loss"]
    assert (run / "config.yaml").read_bytes() == written
    call("eval", run)
    assert RunFolder(run).read_analysis("test") == as_trained
    call("eval", run, "--set", "data.test_size=33", expect=2)
    assert "--set: data: test_resize=32 is smaller than test_size=33" in capsys.readouterr().err
    call("eval", run, "--set", "data.tset_size=24", expect=2)
    assert "--set: unknown key 'data.tset_size'; nearest: test_size" in capsys.readouterr().err


@pytest.mark.parametrize("override", ["train.test_batch_size=4", "model.T=1", "data={kind: digits}", "database=1"])
def test_eval_changes_nothing_but_keys_of_the_data(run, override, capsys):
    before = RunFolder(run).read_analysis("test")
    call("eval", run, "--set", override, expect=2)
    sentence = f"the --set of a trained run takes keys of data only, as data.test_size=288, got '{override}'"
    assert capsys.readouterr().err.strip() == f"error: {sentence}"
    assert RunFolder(run).read_analysis("test") == before


def test_predict_sees_what_eval_sees(photographs, capsys):
    run, images = photographs
    call("eval", run, "--json")
    tested = json.loads(capsys.readouterr().out)
    paths = sorted((images / "val").glob("*/*.png"))
    call("predict", run, *paths, "--json")
    results = json.loads(capsys.readouterr().out)
    losses = [
        -math.log(next(p["probability"] for p in result["predictions"] if p["class"] == path.parent.name))
        for path, result in zip(paths, results, strict=True)
    ]
    assert sum(losses) / len(losses) == pytest.approx(tested["loss"], rel=1e-4)


@pytest.mark.onnx
def test_an_exported_run_runs_elsewhere(run, tmp_path, capsys):
    import onnxruntime

    call("export", run, "--format", "onnx", "--out", tmp_path / "net.onnx")
    said = capsys.readouterr().out
    size = (tmp_path / "net.onnx").stat().st_size
    assert said == f"{tmp_path / 'net.onnx'}: onnx, static, T=2, 8x8 pixels, {size:,} bytes\n"
    predictor = isospike.load_run(run, checkpoint="last")
    x = torch.rand(16, 1, 8, 8)
    logits = onnxruntime.InferenceSession(tmp_path / "net.onnx").run(["logits"], {"x": x.numpy()})[0]
    torch.testing.assert_close(torch.from_numpy(logits), predictor.net(x), rtol=1e-4, atol=1e-4)
    for arguments, sentence in {
        ("--form", "all"): "unknown form of ONNX 'all'; choose from: static, clip, step",
        ("--precision", "int4"): "unknown precision of ONNX 'int4'; nearest: int8",
        ("--lossy",): "format 'onnx' loses nothing: leave lossy out",
        ("--operators", " "): "give the operators that the device has, as in operators=['Add', 'Conv']",
    }.items():
        call("export", run, "--format", "onnx", "--out", tmp_path / "other.onnx", *arguments, expect=2)
        assert capsys.readouterr().err.strip() == f"error: {sentence}"
    assert [path.name for path in tmp_path.iterdir()] == ["net.onnx"]
    call("export", run, "--format", "onnx", "--precision", "int8", "--out", tmp_path / "net.onnx")
    assert ": onnx, static, int8, T=2, 8x8 pixels, " in capsys.readouterr().out
    assert (tmp_path / "net.onnx").stat().st_size < size


@pytest.mark.nir
def test_a_run_goes_through_nir(run, tmp_path, capsys):
    call("export", run, "--format", "nir", "--out", tmp_path / "net.nir")
    assert capsys.readouterr().out.startswith(f"{tmp_path / 'net.nir'}: nir, T=2, 8x8 pixels, ")
    net, model = isospike.from_nir(tmp_path / "net.nir"), isospike.load_run(run, checkpoint="last").model
    x = torch.rand(16, 1, 8, 8)
    torch.testing.assert_close(net(x), model(x), rtol=1e-4, atol=1e-4)
    assert net.inputs == model.inputs
    call("export", run, "--format", "nir", "--form", "step", "--out", tmp_path / "other.nir", expect=2)
    assert capsys.readouterr().err.strip() == "error: format 'nir' has no forms: leave form='step' out"
    call("export", run, "--format", "nir", "--precision", "int8", "--out", tmp_path / "other.nir", expect=2)
    assert capsys.readouterr().err.strip() == "error: format 'nir' has no precisions: leave precision='int8' out"
    call("export", run, "--format", "nir", "--operators", "Conv2d, IF", "--out", tmp_path / "other.nir", expect=2)
    assert "the device lacks operators of this network: Input (1x), LIF (" in capsys.readouterr().err
    call("export", run, "--format", "torch", "--operators", "Conv", "--out", tmp_path / "other.pt2", expect=2)
    sentence = "error: format 'torch' has no operators to choose from: leave operators out"
    assert capsys.readouterr().err.strip() == sentence
    assert [path.name for path in tmp_path.iterdir()] == ["net.nir"]


def test_report_alone(run, capsys):
    (run / "report.html").unlink()
    call("report", run)
    assert "report.html" in capsys.readouterr().out
    assert (run / "report.html").is_file()


MISTAKES = {
    ("train",): "name a recipe with --recipe, a run to begin from with --from, or one to go on with by --resume",
    ("train", "--recipe", "digits_ms_resnt20"): "unknown recipe 'digits_ms_resnt20'; nearest: digits_ms_resnet20",
    ("train", "--recipe", "none.yaml"): "cannot read none.yaml",
    ("train", *TINY, "--set", "optim.lrr=1"): "unknown key 'optim.lrr'; nearest: lr",
    ("train", *TINY, "--set", "optim.lr=fast"): "optim.lr: input should be a valid number, got 'fast'",
    ("train", *TINY, "--set", "model.name=ms_resnet9"): "no body of 'ms' has depth 9",
    ("train", *TINY, "--set", "model.neuron={decya: 1}"): "nearest: decay",
    ("train", *TINY, "--set", "model.join=and"): "use 'add'",
    ("train", *TINY, "--device", "cuda:9"): "device 'cuda:9': PyTorch sees",
    ("train", *TINY, "--device", "tpu"): "device must be auto, cpu, cuda or cuda:N, got 'tpu'",
    ("train", *TINY, "--data-dir", "somewhere"): "the data 'digits' is not read from a folder",
    ("train", *TINY, "--set", "train.batch_size=2000"): "fewer than a batch of 2000: lower train.batch_size",
    ("train", "--recipe", "cifar10_ms_resnet20"): "name their folder with --data-dir",
    ("train", "--recipe", "cifar10_ms_resnet20", "--data-dir", "nowhere"): "the data folder nowhere does not exist",
    ("train", "--resume", "nowhere"): "nowhere is not a run folder: it holds no config.yaml",
    ("train", "--resume", "nowhere", "--seed", "1"): "--resume goes on with a run as it was",
    ("train", "--resume", "nowhere", "--weights", "x"): "--resume goes on with a run as it was",
    ("train", *TINY, "--weights", "nowhere"): "nowhere does not exist",
    ("train", *TINY, "--weights", "."): ". holds no weights: neither checkpoints/last.safetensors, as a run, nor model",
    ("train", *TINY, "--set", "train.freeze=[stage4]"): "train.freeze names stage4, and the model has 3 stages",
    ("train", *TINY, "--set", "train.sampling=[1, 2]"): "train.sampling has 2 numbers, and the data have 10 classes",
    ("train", *TINY, "--set", "objective.class_weights=[1]"): "objective.class_weights has 1 numbers, and the",
    ("train", *TINY, "--set", "recipe=../../x"): "recipe is called '../../x', which names no folder below runs/",
    ("eval", "nowhere"): "nowhere is not a run folder",
    ("predict", "nowhere", "image.png"): "nowhere is not a run folder",
    ("analyze", "nowhere"): "there is no run folder 'nowhere', and as the name of a model: unknown model 'nowhere'",
    ("analyze", "ms_resnt20"): "nearest: ms_resnet20",
    ("analyze", "."): ". is not a run folder: it holds no config.yaml",
    ("analyze", "ms_resnet8", "--probes", "0"): "probes must be at least 1, got 0",
    ("analyze", "ms_resnet8", "--batch", "0"): "--batch is a number of images, at least 1, got 0",
    ("export", "nowhere", "--format", "onnx", "--out", "net.onnx"): "nowhere is not a run folder",
    ("export", "nowhere", "--format", "onxn", "--out", "net.onnx"): "unknown format 'onxn'; nearest: onnx",
    ("export", "nowhere", "--format", "caffe", "--out", "x"): "unknown format 'caffe'; choose from: onnx, nir, torch",
    ("report", "nowhere", "elsewhere"): "nowhere is not a run folder",
    ("report", "nowhere"): "nowhere is not a run folder",
    ("energy", "runs/nowhere"): "runs/nowhere is not a run folder",
    ("energy", "ms_resnt20"): "unknown model 'ms_resnt20'; nearest: ms_resnet20",
    ("energy", "ms_resnet20", "--table", "45nm_flaot32"): "unknown table of energies '45nm_flaot32'; nearest: 45nm_fl",
    ("models", "ms_resnt20"): "unknown model 'ms_resnt20'; nearest: ms_resnet20",
    ("models", "mz_*"): "no model matches 'mz_*'",
}  # fmt: skip


@pytest.mark.parametrize("arguments", MISTAKES, ids=" ".join)
def test_a_mistake_ends_with_2_and_one_sentence(arguments, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    call(*arguments, expect=2)
    said = capsys.readouterr().err.strip()
    assert said.startswith("error: ")
    assert MISTAKES[arguments] in said
    assert "\n" not in said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("arguments", [["trian"], ["train", "--recpie", "x"], ["train", "--max-steps", "0"], ["eval"]])
def test_a_wrong_command_or_option_ends_with_2(arguments, capsys):
    call(*arguments, expect=2)
    assert capsys.readouterr().err


def test_an_unreadable_image_or_checkpoint_is_named(run, tmp_path, capsys):
    (tmp_path / "broken.png").write_bytes(b"hello")
    call("predict", run, tmp_path / "broken.png", expect=2)
    assert "broken.png cannot be read as an image" in capsys.readouterr().err
    call("eval", run, "--checkpoint", "first", expect=2)
    assert "first" in capsys.readouterr().err


def test_a_finished_or_foreign_folder_is_not_written_over(run, tmp_path, capsys):
    before = (run / "metrics.jsonl").read_bytes()
    call("train", *TINY, "--out", run, expect=2)
    assert f"already holds a run: continue it with --resume {run}" in capsys.readouterr().err
    call("train", "--resume", run)
    assert "resumed at step 90 of 90" in capsys.readouterr().out
    assert (run / "metrics.jsonl").read_bytes() == before
    (tmp_path / "file").write_text("")
    call("train", *TINY, "--out", tmp_path / "file" / "run", expect=2)
    assert "cannot write to" in capsys.readouterr().err


def test_a_disk_too_small_is_said_before_training(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 1000})())
    call("train", *TINY, "--out", tmp_path / "run", expect=2)
    said = capsys.readouterr()
    assert "has 0 MB left, and the checkpoints of this run take" in said.err
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_runs_without_a_name_never_touch_each_other(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        call("train", *TINY, "--max-steps", 1)
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["digits_ms_resnet20", "digits_ms_resnet20-2"]
    assert "stopped at step 1 of 90 (--max-steps)" in capsys.readouterr().out

"""Readers of configurations, run folders and results that are given damaged files."""

from pathlib import Path
from random import Random

import isospike as iso
import report_runs
from bench_results import growth_result, result, row
from fuzz_data import some_pixels
from fuzz_subject import Subject, either, in_bytes, in_text, in_value
from isospike.bench import Case
from isospike.bench.saved import render_file
from isospike.config import apply_overrides, parse_yaml, read_config, read_yaml
from isospike.report.comparison import comparison_sections
from isospike.report.page import run_sections
from isospike.run_folder import RunFolder, write_json
from isospike.sweep import collect, open_sweep, plan_sweep, save_plan
from isospike.weights import save_tensors

# Configurations ------------------------------------------------------------------------------------------------------


def make_config(folder: Path) -> list[Path]:
    text = report_runs.CONFIG + "augment: &a {crop: 4, policy: {kind: randaugment, n: 2}}\n"
    (folder / "recipe.yaml").write_text(text)
    return [folder / "recipe.yaml"]


def read_recipe(folder: Path, damaged: Path) -> object:
    return read_config(read_yaml(damaged), str(damaged))


def make_overrides(folder: Path) -> list[Path]:
    (folder / "--set").write_text("optim.lr=0.1\nmodel={name: ms_resnet8, T: 2}\ndata.kind=digits\ntrain.epochs=3")
    return [folder / "--set"]


def read_overrides(folder: Path, damaged: Path) -> object:
    text = damaged.read_bytes().decode("utf-8", "surrogateescape")  # as Python reads arguments
    return read_config(apply_overrides(parse_yaml(report_runs.CONFIG, "recipe"), text.split("\n")), "--set")


# Run folders ----------------------------------------------------------------------------------------------------------


def make_run(folder: Path) -> list[Path]:
    run = report_runs.make_run(folder / "run", analyzed=True)
    report_runs.measure(run)
    report_runs.make_run(folder / "other")
    return [path for path in sorted(run.path.rglob("*.*")) if path.suffix in (".json", ".jsonl", ".yaml")]


def read_report(folder: Path, damaged: Path) -> object:
    run = RunFolder(folder / "run")
    problems = run_sections(run)[1] + comparison_sections([run, RunFolder(folder / "other")])[1]
    assert not [problem for problem in problems if "\n" in problem or len(problem) > 1000]
    return problems


def in_run(path: Path, rng: Random) -> None:
    (in_text if path.suffix == ".yaml" else in_value)(path, rng)


def make_facts(folder: Path) -> list[Path]:
    run = report_runs.make_run(folder / "run", steps=0, tested=False)
    inputs = {"size": 8, "mean": [0.5], "std": [0.25], "classes": ["a", "b", "c"], "test_size": 9, "test_resize": 10}
    write_json(run.analysis("data"), {"name": "x", "note": "", **inputs})
    save_tensors(run.weights, iso.create_model("ms_resnet8", num_classes=3, in_channels=1).state_dict(), {})
    return [run.analysis("data")]


def read_facts(folder: Path, damaged: Path) -> object:
    return iso.load_run(folder / "run", compiled=False)(some_pixels(9, 11))


# Results of many runs, and of the bench ------------------------------------------------------------------------------


def make_plan(folder: Path) -> list[Path]:
    changes = ["model.T=1,2", "train.epochs=2"]
    save_plan(plan_sweep(folder, recipe="digits_sweep", topologies=["ms"], depths=[8], seeds=[0, 1], changes=changes))
    return [folder / "plan.json"]


def read_plan(folder: Path, damaged: Path) -> object:
    return collect(open_sweep(folder))


def make_bench(folder: Path) -> list[Path]:
    alone = row(Case("fire", "64 channels", peer="spikingjelly"), agree=False)
    alone["contestants"][2]["trial"] = [{"setting": {"compile": True}, "seconds": 0.5}, {"setting": {}}]
    write_json(folder / "rows.json", result([row(Case("infer", "ms_resnet8", options={"width": 8})), alone]))
    write_json(folder / "growth.json", growth_result())
    return [folder / "rows.json", folder / "growth.json"]


def read_bench(folder: Path, damaged: Path) -> object:
    return render_file(damaged)


RUNS = {
    "config": Subject(make_config, either(in_bytes, in_text, in_text), read_recipe),
    "overrides": Subject(make_overrides, either(in_bytes, in_text, in_text), read_overrides),
    "run folder": Subject(make_run, in_run, read_report),
    "facts of images": Subject(make_facts, in_value, read_facts),
    "plan of a sweep": Subject(make_plan, in_value, read_plan),
    "bench": Subject(make_bench, in_value, read_bench),
}

"""Sweeps: resuming, several at once, and the numbers at the end."""

import json
import math
import os
import shutil
import signal
import threading
import time

import pytest
import torch
import vl_convert

from helpers import locked_elsewhere
from isospike.data import load_dataset
from isospike.errors import ConfigError, DataError
from isospike.report.sweep import write_sweep_figures, write_sweep_report
from isospike.report.sweep_charts import alone, side_by_side
from isospike.run_folder import RunFolder
from isospike.sweep import collect, open_sweep, plan_sweep, save_plan
from isospike.sweep.cell import is_finished
from isospike.sweep.pool import LOG, Pool, Task
from isospike.sweep.results import find, mean_and_spread
from isospike.train.display import SilentDisplay
from isospike.train.stopping import StopRequest
from isospike.weights import load_tensors
from test_cli import call
from test_data import write_pickles
from tiny_sweep import DATA, SMALL, TINY, tiny, train


def outcome(run):
    """What a cell found: weights and records, without how long it took."""
    timeless = [
        {k: v for k, v in record.items() if k not in ("images_per_s", "peak_memory_mb", "seconds")}
        for record in run.read_metrics()
    ]
    tensors, _ = load_tensors(run.weights)
    return timeless, {name: tensor.tolist() for name, tensor in tensors.items()}, run.read_analysis("gradients")


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A finished sweep of two networks and two seeds."""
    torch.set_num_threads(1)
    sweep = tiny(tmp_path_factory.mktemp("sweep") / "s", topologies=("vanilla", "ms"), seeds=(0, 1))
    assert [ended.how for ended in train(sweep)] == ["done"] * 4
    return sweep


# The folder --------------------------------------------------------------------------------------------------------


def test_a_folder_is_a_sweep_once(tmp_path, done):
    with pytest.raises(ConfigError, match="already holds a sweep: continue it with --resume"):
        save_plan(done)
    with pytest.raises(ConfigError, match="is not a sweep folder"):
        open_sweep(tmp_path)
    (tmp_path / "plan.json").write_text('{"topologies": "ms"}')
    with pytest.raises(ConfigError, match=r"plan.json is damaged: topologies"):
        open_sweep(tmp_path)
    (tmp_path / "plan.json").write_text('{"topologies":')
    with pytest.raises(ConfigError, match=r"plan.json cannot be read as JSON"):
        open_sweep(tmp_path)
    with locked_elsewhere(done.path), pytest.raises(ConfigError, match="another process is working on the sweep"):
        train(done)


def test_what_a_sweep_found_is_said_though_it_cannot_be_written(tmp_path, done, capsys):
    copy = shutil.copytree(done.path, tmp_path / "sweep")
    (copy / "sweep.json").unlink(missing_ok=True)
    (copy / "sweep.json").mkdir()
    call("report", copy, expect=1)
    said = capsys.readouterr()
    assert "mean +- standard deviation over seeds" in said.out
    assert said.err == f"error: cannot write {copy}/sweep.json: Is a directory\n"


# Training ----------------------------------------------------------------------------------------------------------


def test_two_at_once_find_the_same_bits_as_one(tmp_path, done):
    sweep = tiny(tmp_path / "s", topologies=("vanilla", "ms"))
    assert {(e.cell.name, e.how) for e in train(sweep, jobs=2)} == {(c.name, "done") for c in sweep.cells}
    for cell in sweep.cells:
        assert outcome(sweep.folder(cell)) == outcome(done.folder(cell))
        assert "epoch 2/2" in (sweep.folder(cell).path / LOG).read_text()


class Beginnings(SilentDisplay):
    """Notes at which step every cell begins."""

    def __init__(self):
        self.steps = []

    def begin(self, step, steps):
        self.steps.append(step)


class Interrupting(SilentDisplay):
    """As a person who presses Ctrl-C in the second epoch of the first cell."""

    def step(self, record, step):
        if step == 6:
            os.kill(os.getpid(), signal.SIGINT)


def test_ctrl_c_saves_and_resume_goes_on_to_the_same_bits(tmp_path, done):
    sweep = tiny(tmp_path / "s", topologies=("vanilla", "ms"))
    (ended,) = train(sweep, display=Interrupting)
    assert ended.how == "interrupted"
    run = sweep.folder(ended.cell)
    assert len([r for r in run.read_metrics() if r["kind"] == "step"]) == 3
    with run.metrics.open("a") as file:
        file.write('{"kind": "epoch", "split": "te')  # as a crash would leave it
    result = collect(sweep)
    states = {row["cell"]: (row["state"], row["reason"], row["epochs"]) for row in result["rows"]}
    assert states[ended.cell.name] == ("begun", "1 of 2 epochs", 1)
    assert result["states"] == {"done": 0, "failed": 0, "begun": 1, "missing": 1}
    write_sweep_report(sweep.path, result)
    assert "No cell is done yet" in (sweep.path / "sweep.html").read_text()
    begun = Beginnings()
    assert [e.how for e in train(open_sweep(sweep.path), display=lambda: begun)] == ["done", "done"]
    assert begun.steps == [6, 0]
    for cell in sweep.cells:
        assert outcome(sweep.folder(cell)) == outcome(done.folder(cell))
    assert train(sweep) == []  # nothing is left


def test_a_sweep_goes_on_with_its_images_in_another_folder(tmp_path):
    write_pickles(tmp_path / "here")
    changes = [change for change in SMALL if change != DATA]
    sweep = plan_sweep(
        tmp_path / "s",
        recipe="digits_sweep",
        topologies=["ms"],
        depths=[8],
        seeds=[0],
        changes=[*changes, "data={kind: cifar10}", "train.batch_size=8", "train.epochs=6"],
        data_dir=str(tmp_path / "here"),
    )
    save_plan(sweep)
    assert [ended.how for ended in train(sweep, display=Interrupting)] == ["interrupted"]
    (tmp_path / "here").rename(tmp_path / "there")
    with pytest.raises(DataError, match="here"):
        train(open_sweep(sweep.path))
    assert [ended.how for ended in train(open_sweep(sweep.path, str(tmp_path / "there")))] == ["done"]


def test_a_folder_that_was_hardly_begun_starts_anew(tmp_path, done):
    sweep = tiny(tmp_path / "s")
    (cell,) = sweep.cells
    run = sweep.folder(cell)
    (run.path / "checkpoints").mkdir(parents=True)
    (run.path / "config.yaml.part").write_text("recipe: dig")
    assert collect(sweep)["rows"][0]["state"] == "missing"
    assert [e.how for e in train(sweep)] == ["done"]
    assert outcome(run) == outcome(done.folder(cell))


def test_a_cell_that_fails_is_noted_and_stops_no_other(tmp_path, capsys):
    folder = tmp_path / "s"
    words = [*TINY, "--set", "optim.lr=0.1,1e30", "--out", folder]
    call(*words, expect=1)
    output = " ".join(capsys.readouterr().out.split())
    result = json.loads((folder / "sweep.json").read_text())
    assert result["states"] == {"done": 2, "failed": 2, "begun": 0, "missing": 0}
    for row in result["rows"]:
        if row["state"] == "failed":
            assert "is not finite at step" in row["reason"]
            assert f"failed: {row['cell']}: {row['reason']}" in output
    assert "no two depths to compare yet" in output
    call("sweep", "--resume", folder, "--jobs", "1", expect=1)  # tries them again
    assert "2 of 4 cells to train" in " ".join(capsys.readouterr().out.split())


def test_damaged_files_of_a_cell_become_its_reason(tmp_path):
    sweep = tiny(tmp_path / "s", topologies=("vanilla", "ms"), seeds=(0, 1))
    damaged, changed, torn, whole = sweep.cells
    train(sweep)
    lines = sweep.folder(damaged).metrics.read_text().splitlines()
    sweep.folder(damaged).metrics.write_text("\n".join([lines[0][:20], *lines[1:]]) + "\n")
    config = sweep.folder(changed).config
    config.write_text(config.read_text().replace("lr: 0.1", "lr: 0.2"))
    sweep.folder(changed).analysis("flow").unlink()
    checkpoint = sweep.folder(torn).checkpoint("last")
    checkpoint.write_bytes(checkpoint.read_bytes()[:100])
    sweep.folder(torn).analysis("flow").unlink()
    ended = {e.cell.name: (e.how, e.reason) for e in train(sweep)}
    assert set(ended) == {changed.name, torn.name}
    assert "is not what the plan of the sweep says" in ended[changed.name][1]
    assert "is damaged" in ended[torn.name][1]
    rows = {row["cell"]: row for row in collect(sweep)["rows"]}
    assert "line 1 is damaged" in rows[damaged.name]["reason"]
    assert {name: row["state"] for name, row in rows.items() if row["state"] != "failed"} == {whole.name: "done"}
    config.write_text(config.read_text().replace("lr: 0.2", "lr: 0.1"))
    train(sweep)
    rows = {row["cell"]: row["state"] for row in collect(sweep)["rows"]}
    assert rows == {damaged.name: "failed", changed.name: "done", torn.name: "failed", whole.name: "done"}


def test_a_process_that_dies_costs_its_cell_alone_and_a_signal_stops_the_rest(tmp_path):
    """Killed from outside while it trains; the next one trains the next cell, until it is asked to stop."""
    long = ["train.epochs=5000", "train.checkpoint_every=1"]
    sweep = tiny(tmp_path / "s", *long, seeds=(0, 1, 2))
    runs = [sweep.folder(cell) for cell in sweep.cells]
    tasks = [Task(str(run.path), cell.config, "x") for run, cell in zip(runs, sweep.cells, strict=True)]
    stop = StopRequest()

    def wait_for(path):
        deadline = time.monotonic() + 60
        while not path.exists() and time.monotonic() < deadline:
            time.sleep(0.02)

    with Pool(1, {"x": load_dataset(sweep.cells[0].config.data)}, "cpu", 1) as pool:

        def act():
            wait_for(runs[0].checkpoint("last"))
            os.kill(pool.workers[0].process.pid, signal.SIGKILL)
            wait_for(runs[1].checkpoint("last"))
            stop.signal = "SIGINT"

        thread = threading.Thread(target=act)
        thread.start()
        results = [*pool.run(tasks, stop)]
        thread.join()
    first, second = results
    assert (first.folder, first.how) == (str(runs[0].path), "failed")
    assert first.reason == "its process was ended by SIGKILL, perhaps for lack of memory: try fewer --jobs"
    assert (second.folder, second.how) == (str(runs[1].path), "interrupted")
    assert load_tensors(runs[1].checkpoint("last"))[1]["state"]["step"] > 0
    assert not runs[2].config.exists()


# Numbers -----------------------------------------------------------------------------------------------------------


def test_mean_and_spread_by_hand():
    assert mean_and_spread([0.5, 0.7, 0.9]) == {"mean": pytest.approx(0.7), "sd": pytest.approx(0.2), "n": 3}
    assert mean_and_spread([0.5]) == {"mean": 0.5, "sd": None, "n": 1}
    assert mean_and_spread([None, None]) == {"mean": None, "sd": None, "n": 0}


def group(depth, train, test=(0.5,)):
    return {"depth": depth, "train_accuracy": mean_and_spread(train), "test_accuracy": mean_and_spread(test)}


def test_degradation_is_a_loss_of_training_accuracy_beyond_its_errors():
    shallow, best = group(8, [0.8, 0.8]), group(20, [0.9, 0.94])
    # the standard deviations are 0.0283 and 0.0424: of the difference of two means of two 0.0361, twice that 0.0721
    assert find("x", [shallow, best, group(56, [0.82, 0.88])])["degrades"] is False
    found = find("x", [group(56, [0.81, 0.87]), shallow, best])
    assert found["degrades"] is True
    assert found["text"] == (
        "x: degrades with depth; train accuracy 92.00% at depth 20 and 84.00% at 56, test 50.00% and 50.00%"
    )
    assert find("x", [group(8, [0.9]), group(20, [0.895])])["degrades"] is False  # half a percent
    assert find("x", [group(8, [0.9]), group(20, [0.8])])["degrades"] is True
    assert find("x", [group(8, [0.9]), group(20, [])])["degrades"] is None


def test_a_row_says_what_the_run_folder_says(done):
    result = collect(done)
    assert result["states"] == {"done": 4, "failed": 0, "begun": 0, "missing": 0}
    for cell, row in zip(done.cells, result["rows"], strict=True):
        run = done.folder(cell)
        last = [r for r in run.read_metrics() if r["kind"] == "epoch"][-2:]
        assert [r["split"] for r in last] == ["train", "test"]
        assert (row["train_accuracy"], row["test_accuracy"]) == (last[0]["accuracy"], last[1]["accuracy"])
        assert row["test_accuracy"] == run.read_analysis("test")["accuracy"]
        norms = [*run.read_analysis("gradients")["untrained"]["inputs"].values()]
        assert row["gradients"]["untrained"] == pytest.approx(norms, rel=1e-4)
        assert row["log10_gradient_ratio"] == pytest.approx(math.log10(norms[0] / norms[-1]))
        assert row["gradients"]["trained"] != row["gradients"]["untrained"]
        flow = run.read_analysis("flow")
        own = [n for n in flow["neurons"] if n["name"].startswith("stages.1.0.")]
        spikes = sum(n["neurons"] * sum(n["rate"]) / 2 for n in own)
        assert row["firing"][1] == pytest.approx(spikes / sum(n["neurons"] for n in own), rel=1e-4)
    means = {g["topology"]: g["test_accuracy"]["mean"] for g in result["groups"]}
    for topology in ("vanilla", "ms"):
        own = [row["test_accuracy"] for row in result["rows"] if row["topology"] == topology]
        assert means[topology] == pytest.approx(sum(own) / 2)


def test_the_first_gradient_is_that_of_the_first_step(done):
    """Gradients are those of the batch that training began with: the loss of its first step is theirs."""
    sweep = done
    (cell, *_) = sweep.cells
    run = sweep.folder(cell)
    first = run.read_metrics()[0]
    assert first["step"] == 2  # the mean of two steps
    assert run.read_analysis("gradients")["untrained"]["loss"] == pytest.approx(first["loss"], rel=0.25)
    assert run.read_analysis("gradients")["images"] == 16


# The page ----------------------------------------------------------------------------------------------------------


def test_the_page_and_the_figures_of_a_sweep(done, capsys):
    call("sweep", "--resume", done.path, "--figures", done.path / "figures")
    output = capsys.readouterr().out
    assert "no two depths to compare yet" in output
    page = (done.path / "sweep.html").read_text()
    assert page.count('class="chart"') == 3
    for name in ("accuracy", "gradient", "firing"):
        assert (done.path / "figures" / f"{name}.svg").read_text().startswith("<svg")
        assert (done.path / "figures" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    (done.path / "sweep.html").unlink()
    call("report", done.path)
    assert (done.path / "sweep.html").read_text() == page


def test_json_is_the_result_and_nothing_else(done, capsys):
    call("sweep", "--resume", done.path, "--json")
    assert json.loads(capsys.readouterr().out) == json.loads((done.path / "sweep.json").read_text())


def test_nothing_in_a_sweep_can_break_the_page_and_every_chart_can_be_drawn(tmp_path, done):
    hostile = "</script><script>alert(1)</script><b>&\"'"
    result = collect(done)
    for place in [*result["groups"], *result["rows"]]:
        place["series"] = place["series"] + hostile
        place["reason"] = hostile
    result |= {"recipe": hostile, "data": hostile, "note": hostile, "findings": [{"text": hostile}]}
    write_sweep_report(tmp_path, result)
    page = (tmp_path / "sweep.html").read_text()
    assert "alert(1)</script>" not in page
    assert "<b>&" not in page
    write_sweep_figures(tmp_path, result)
    assert "alert(1)</script>" not in (tmp_path / "gradient.svg").read_text()


def test_pictures_by_unit_show_the_deepest_alone_or_all_side_by_side(done):
    from isospike.report.sweep import _charts

    charts = _charts(collect(done))
    assert [*charts] == ["accuracy", "gradient", "firing"]
    assert alone(charts["gradient"])["params"][0]["value"] == 8
    assert side_by_side(charts["gradient"])["facet"]["field"] == "depth"
    for spec in charts.values():
        for drawn in (alone(spec), side_by_side(spec)):
            assert vl_convert.vegalite_to_svg(json.dumps(drawn)).startswith("<svg")


def test_a_finished_cell_is_an_ordinary_run(done, capsys):
    cell = done.cells[0]
    assert is_finished(done.folder(cell))
    call("eval", done.folder(cell).path)
    assert "accuracy" in capsys.readouterr().out
    call("report", done.folder(cell).path)
    assert RunFolder(done.folder(cell).path).report.is_file()

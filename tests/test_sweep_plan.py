"""The plan of a sweep: its cells, what is refused, and how many are trained at once."""

import json

import pytest

from isospike.data import load_dataset
from isospike.errors import ConfigError
from isospike.sweep import open_sweep
from isospike.sweep.plan import split_values
from isospike.sweep.run import IMPORTED, _cards, _jobs, _key, _memory
from test_cli import call
from tiny_sweep import TINY, tiny, train


def test_cells_are_all_combinations_and_the_grid_takes_any_key(tmp_path):
    sweep = tiny(tmp_path / "s", "optim.lr=0.1,0.05", "schedule={kind: steps, milestones: [1, 2]}", seeds=(0, 3))
    assert [(c.name, c.series, c.config.seed, c.config.optim.lr) for c in sweep.cells] == [
        ("ms_resnet8-optim.lr=0.1-seed0", "ms optim.lr=0.1", 0, 0.1),
        ("ms_resnet8-optim.lr=0.1-seed3", "ms optim.lr=0.1", 3, 0.1),
        ("ms_resnet8-optim.lr=0.05-seed0", "ms optim.lr=0.05", 0, 0.05),
        ("ms_resnet8-optim.lr=0.05-seed3", "ms optim.lr=0.05", 3, 0.05),
    ]
    assert sweep.cells[0].config.schedule.milestones == (1, 2)
    assert open_sweep(sweep.path).cells == sweep.cells


def test_commas_in_brackets_part_nothing():
    assert split_values("1, 2") == ["1", "2"]
    assert split_values("[1, 2],{a: 1, b: [2, 3]}") == ["[1, 2]", "{a: 1, b: [2, 3]}"]
    with pytest.raises(ConfigError, match="nothing between two commas of '1,,2'"):
        split_values("1,,2")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--topologies", "mss"], "unknown topology 'mss'; nearest: ms"),
        (["--depths", "9"], "no body of 'ms' has depth 9"),
        (["--depths", "8,x"], "--depths takes whole numbers with commas between them, got 'x'"),
        (["--depths", ","], "--depths needs at least one value"),
        (["--seeds", "1,1"], "--seeds: 1 is given twice"),
        (["--set", "optim.lr=0.1,-1"], "ms_resnet8 optim.lr=-1: optim.lr: input should be greater than 0"),
        (["--set", "optim.lrr=0.1"], "unknown key 'optim.lrr'; nearest: lr"),
        (["--set", "model.name=ms_resnet8"], "--set model.name: a sweep takes it from --topologies and --depths"),
        (["--set", "seed=1,2"], "--set seed: a sweep takes it from --seeds"),
        (["--set", "optim.lr=1,2", "--set", "optim.lr=3,4"], "--set optim.lr is given twice"),
        (["--set", "optim.lr=1,1"], "optim.lr: 1 is given twice"),
        (["--set", "model.join=add,iand", "--topologies", "vanilla"], "iand"),
        (["--set", "optim.lr=1,[1]"], "optim.lr"),
        (["--jobs", "0"], "--jobs is auto or a number from 1 on, got '0'"),
        (["--recipe", "digits_sweeep"], "unknown recipe 'digits_sweeep'; nearest: digits_sweep"),
        (["--data-dir", "x"], "leave --data-dir out"),
        (["--resume", "nowhere"], "--resume goes on with a sweep as it was planned"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_written(tmp_path, capsys, arguments, message):
    folder = tmp_path / "s"
    given = {"--topologies": "ms", "--depths": "8", "--seeds": "0"}
    words = [word for pair in given.items() if pair[0] not in arguments for word in pair]
    call("sweep", *words, *arguments, "--out", folder, expect=2)
    error = capsys.readouterr().err
    assert message in " ".join(error.split())
    assert "Traceback" not in error
    assert not folder.exists()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"topologies": ["../elsewhere/ms"]}, r"unknown topology '../elsewhere/ms'"),  # a folder outside of the sweep
        ({"topologies": ["ms", "ms"]}, r"--topologies: ms is given twice"),
        ({"grid": {"model.TT": ["1", "2"]}}, r"ms_resnet8 model.TT=1: unknown key 'model.TT'"),
        ({"grid": {"a\nb": ["1"]}}, r"ms_resnet8 a b=1: unknown key 'a b'"),
        ({"a\nb": 1}, r"a b: extra inputs"),
    ],
)
def test_a_plan_that_makes_no_sweep_is_refused(change, says, tmp_path):
    tiny(tmp_path)
    plan = tmp_path / "plan.json"
    plan.write_text(json.dumps({**json.loads(plan.read_text()), **change}))
    with pytest.raises(ConfigError, match=rf"plan.json is damaged: {says}"):
        open_sweep(tmp_path)


def test_a_sweep_by_a_file_lies_below_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text("base: digits_sweep\n")
    monkeypatch.setattr("isospike.cli.sweep._train", lambda *_, **__: None)
    call(*TINY, "--recipe", tmp_path / "mine.yaml", expect=1)
    assert (tmp_path / "runs" / "mine" / "plan.json").is_file()


def test_names_of_folders_do_not_collide(tmp_path):
    with pytest.raises(ConfigError, match=r"2 cells of this sweep would share the run folder ms_resnet8-data"):
        tiny(tmp_path / "s", "data={kind: digits},{kind:  digits}")


def test_seeds_come_one_after_the_other_and_the_deepest_first(tmp_path):
    sweep = tiny(tmp_path / "s", "train.epochs=1", depths=(8, 14), seeds=(1, 0))
    order = [(ended.cell.seed, ended.cell.depth) for ended in train(sweep)]
    assert order == [(1, 14), (1, 8), (0, 14), (0, 8)]


def test_as_many_at_once_as_cores_and_memory_allow(monkeypatch):
    monkeypatch.setattr("isospike.sweep.run.available_memory", lambda device: 3_500)
    assert _jobs("cpu", 8, lambda: 1_000) == 3
    assert _jobs("cpu", 2, lambda: 1_000) == 2
    assert _jobs("cpu", 2, lambda: 10_000) == 1
    assert _jobs("cuda:0", 8, lambda: 1) == 1


def test_memory_is_that_of_the_largest_cell(tmp_path):
    sweep = tiny(tmp_path / "s", "train.batch_size=16,64", depths=(8, 20))
    datasets = {_key(cell): load_dataset(cell.config.data) for cell in sweep.cells}
    cards = _cards(sweep.cells, datasets)
    each = [_memory([cell], cards, datasets) for cell in sweep.cells]
    assert [cell.config.train.batch_size for cell in sweep.cells] == [16, 64, 16, 64]
    assert IMPORTED < each[0] < each[1] < each[3]
    assert each[2] < each[3]
    assert _memory(sweep.cells[::-1], cards, datasets) == each[3]


def test_memory_is_that_of_the_precision_of_the_cell(tmp_path):
    found = {}
    for precision in ("fp32", "bf16"):
        sweep = tiny(tmp_path / precision, f"train.precision={precision}")
        datasets = {_key(cell): load_dataset(cell.config.data) for cell in sweep.cells}
        found[precision] = _memory(sweep.cells, _cards(sweep.cells, datasets), datasets)
    assert abs(found["bf16"] - found["fp32"]) > 1e5  # on a CPU it is more: the compiled library computes in float32

"""What readers say of files that hold another kind of thing than isospike writes or reads."""

import json
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import report_runs
from isospike.data import load_dataset, parquet
from isospike.data.cifar import CifarData
from isospike.data.folder import FolderData
from isospike.data.parquet import read_parquet
from isospike.errors import CheckpointError, ConfigError, DataError
from isospike.report.comparison import comparison_sections
from isospike.report.page import run_sections
from isospike.run_folder import RunFolder, read_json, read_records, write_json
from isospike.text import brief
from isospike.train.checkpoint import read_checkpoint
from isospike.train.state import RunState
from isospike.weights import load_tensors, load_weights, save_tensors
from isospike.weights.foreign import KeyMap, read_state_dict


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    run = report_runs.make_run(tmp_path_factory.mktemp("runs") / "run", analyzed=True)
    report_runs.measure(run)
    return run


@pytest.mark.parametrize("odd", [[], "x", 7, None, [[1]], {}, {"classes": 3}], ids=str)
@pytest.mark.parametrize("name", ["test", "confused", "isometry", "energy", "flow", "raster", "data"])
def test_a_result_of_another_kind_is_named_and_the_rest_is_shown(sound, name, odd):
    path = sound.analysis(name)
    text = path.read_text()
    expected = len(run_sections(sound)[0])
    try:
        write_json(path, odd)
        sections, problems = run_sections(sound)
    finally:
        path.write_text(text)
    assert all("\n" not in problem for problem in problems)
    if not (name in ("data", "confused") and isinstance(odd, dict)):  # nothing in them is needed
        assert problems
        assert all(str(path) in problem for problem in problems)
    assert len(sections) >= expected - 1  # without accuracies after each step there is nothing to draw


@pytest.mark.parametrize("name", ["test", "isometry", "energy", "flow"])
def test_a_comparison_names_the_run_whose_results_are_of_another_kind(sound, tmp_path, name):
    other = report_runs.make_run(tmp_path / "other")
    write_json(other.analysis(name), {"accuracy_after": 3, "units": 4, "neurons": 5, "verdict": "x", "ways": []})
    sections, problems = comparison_sections([sound, other])
    assert len(sections) >= 5
    assert problems
    assert all("what other holds for it is not what isospike writes" in problem for problem in problems)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("[1]", "it holds a list, not keys and values"),
        ('{"kind": 3}', "its kind is 3"),
        ('{"kind": "step", "loss": "0.5"}', "its loss is '0.5'"),
        ('{"kind": "step", "step": true}', "its step is True"),
        ("[" * 100_000, "recursion"),
        ("9" * 5000, "4300 digits"),
    ],
    ids=lambda value: value[:12],
)
def test_records_of_another_kind_are_left_out_and_said(tmp_path, line, said):
    path = tmp_path / "metrics.jsonl"
    path.write_text(f'{{"kind": "step", "step": 1}}\n{line}\n{{"kind": "step", "step": 2, "loss": NaN}}\n')
    records, damaged = read_records(path)
    assert [record["step"] for record in records] == [1, 2]
    assert damaged.startswith(f"{path}, line 2 is damaged: ")
    assert said in damaged


@pytest.mark.parametrize("text", ["[" * 100_000, "9" * 5000, "{", "\x00", '"\\u12"'], ids=lambda text: text[:5])
def test_json_that_python_cannot_read_is_named(tmp_path, text):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(ConfigError, match=r"x.json cannot be read as JSON: ") as raised:
        read_json(tmp_path / "x.json")
    assert len(str(raised.value)) < 400


def test_foreign_text_is_one_short_line():
    assert brief("a\nb\x1b[31m\u2028c") == "a b [31m c"
    assert brief("x" * 101) == "x" * 100 + "..."
    assert brief("x" * 100) == "x" * 100


# Parquet and folders -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"img": ["a"], "label": [1]}, "column 'img' must hold encoded images .bytes., not string"),
        ({"img": [{"path": "x"}], "label": [1]}, "column 'img' must hold encoded images"),
        ({"img": [{"bytes": "x"}], "label": [1]}, "column 'img' must hold encoded images"),
        ({"img": [b"a"], "label": [1.5]}, "column 'label' must hold integers, not double"),
        ({"img": [b"a"], "label": ["1"]}, "column 'label' must hold integers, not string"),
        ({"img": [b"a", None], "label": [1, 2]}, "x.parquet row 1 holds no image"),
        ({"img": [b"a"] * 9, "label": [1] * 9}, "claims 9 rows, and at most 8 are read"),
        ({"img": [b"a" * 3000] * 3, "label": [1] * 3}, "holds more than 8,000 bytes of images"),
    ],
    ids=str,
)
def test_parquet_columns_of_another_kind_are_refused(tmp_path, monkeypatch, columns, message):
    monkeypatch.setattr(parquet, "MOST_ROWS", 8)
    monkeypatch.setattr(parquet, "MOST_BYTES", 8000)
    pq.write_table(pa.table(columns), tmp_path / "x.parquet")
    with pytest.raises(DataError, match=message) as raised:
        read_parquet(tmp_path / "x.parquet", ("label",))
    assert "x.parquet" in str(raised.value)


def test_a_label_that_is_missing_is_refused(tmp_path):
    for split in ("train", "test"):
        pq.write_table(pa.table({"img": [b"a"] * 2, "label": [1, None]}), tmp_path / f"{split}-0.parquet")
    with pytest.raises(DataError, match="image 1 has a NoneType as its label, labels are integers"):
        load_dataset(CifarData(kind="cifar10", dir=str(tmp_path)))


def test_parquet_in_hidden_folders_is_not_looked_at(tmp_path):
    (tmp_path / ".cache").mkdir()
    for split in ("train", "test"):
        (tmp_path / ".cache" / f"{split}-0.parquet").write_text("x")
    with pytest.raises(DataError, match="no cifar10 in"):
        load_dataset(CifarData(kind="cifar10", dir=str(tmp_path)))


def test_a_folder_that_the_system_does_not_give_is_named(tmp_path):
    with pytest.raises(DataError, match=f"cannot be read: {os.strerror(36)}"):
        load_dataset(FolderData(kind="folder", dir=str(tmp_path / ("x" * 5000))))


# Weights -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("meta", [[1], "x", 3, None])
def test_a_description_that_is_no_mapping_is_refused(tmp_path, meta):
    save_tensors(tmp_path / "x.safetensors", {"a": torch.ones(2)}, meta)
    with pytest.raises(CheckpointError, match=r"x.safetensors holds a description that is a \w+, not keys and values"):
        load_tensors(tmp_path / "x.safetensors")


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64, torch.float8_e5m2])
def test_weights_of_another_kind_of_number_are_refused(dtype):
    model = torch.nn.Linear(2, 2)
    before = model.weight.clone()
    tensors = {**model.state_dict(), "weight": torch.ones(2, 2).to(dtype)}
    with pytest.raises(CheckpointError, match=f"'weight' is of torch.float32 in the model and of {dtype} in a file"):
        load_weights(model, tensors, "a file")
    assert torch.equal(model.weight, before)
    load_weights(model, {**model.state_dict(), "weight": torch.ones(2, 2).half()}, "a file")
    assert torch.equal(model.weight, torch.ones(2, 2))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            {"a": torch.ones(2).to_sparse()},
            "'a' in .*x.pth is not a tensor of plain numbers in memory, but torch.sparse",
        ),
        ({"a": torch.ones(2, dtype=torch.complex64)}, "torch.complex64"),
        ({3: torch.ones(2)}, "x.pth holds no state dict"),
        ({("a", "b"): torch.ones(2)}, "x.pth holds no state dict"),
        ({"n.num_batches_tracked": torch.tensor(1)}, "x.pth holds no state dict"),
        ({"state_dict": {}}, "x.pth holds no state dict"),
        (torch.ones(2), "x.pth holds no state dict"),
    ],
    ids=str,
)
def test_foreign_files_without_plain_weights_are_refused(tmp_path, content, message):
    torch.save(content, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match=message):
        read_state_dict(tmp_path / "x.pth")


def test_numbers_in_foreign_names_are_short():
    keys = KeyMap({"layer{stage}.conv": "stages.{stage}.conv"}, first_stage=1)
    assert keys.rename("layer2.conv.weight") == "stages.1.conv.weight"
    assert keys.rename(f"layer{'9' * 5000}.conv.weight") is None


def checkpoint(path, *, state=None, tensors=None, **meta):
    own = {"model.w": torch.ones(2), "model.b": torch.ones(1)}
    own |= {"optim.m.w": torch.ones(2), "optim.m.b": torch.ones(1)} if tensors is None else tensors
    state = {**RunState().as_dict(), **(state or {})}
    save_tensors(path, own, {"config": {"data": {}, "train": {"epochs": 3}}, "state": state, **meta})


def test_a_checkpoint_of_a_run_is_read(tmp_path):
    path = tmp_path / "last.safetensors"
    checkpoint(path, state={"seconds": float("nan"), "last_accuracy": 0.5}, averaged=3, more="x")
    assert read_checkpoint(path)[1]["state"]["last_accuracy"] == 0.5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"state": {"step": "3"}}, "is no checkpoint of a run: state.step: input should be a valid integer"),
        ({"state": {"batch": -1}}, "is no checkpoint of a run: state.batch: input should be greater than"),
        ({"state": {"best": {"accuracy": None}}}, "state.best.accuracy"),
        ({"state": {"newer": 1}}, "is no checkpoint of this version: its state has other keys"),
        ({"config": {"data": 3}}, "config.data"),
        ({"config": []}, "is no checkpoint of a run: config"),
        ({"config": {"data": {}, "train": {"epochs": "3"}}}, "config.train.epochs"),
        ({"processes": 0}, "is no checkpoint of a run: processes"),
        ({"averaged": -1}, "averaged"),
        ({"tensors": {"optim.m.w": torch.ones(3)}}, "holds 'm.w' of the optimiser, which fits no weight beside it"),
        ({"tensors": {"optim.m.x": torch.ones(2)}}, "holds 'm.x' of the optimiser"),
        ({"tensors": {"optim.m": torch.ones(2)}}, "holds 'm' of the optimiser"),
        ({"tensors": {"optim.m.w": torch.ones(2, dtype=torch.int64)}}, "holds 'm.w' of the optimiser"),
        (
            {"tensors": {"optim.m.w": torch.ones(2), "optim.n.b": torch.ones(1)}},
            "less of the optimiser for some weights",
        ),
    ],
    ids=str,
)
def test_a_checkpoint_of_odd_content_is_refused(tmp_path, changes, message):
    path = tmp_path / "last.safetensors"
    checkpoint(path, **changes)
    with pytest.raises(CheckpointError, match=message) as raised:
        read_checkpoint(path)
    assert str(raised.value).startswith(str(path))


def test_a_run_folder_whose_results_are_a_folder(tmp_path):
    run = RunFolder(tmp_path)
    run.analysis("test").mkdir(parents=True)
    assert run.read_analysis("test") is None
    run.analysis("data").write_text(json.dumps({"a": 1}))
    assert run.read_analysis("data") == {"a": 1}

"""Rows of one's own, in a file that the command line imports."""

import hashlib
import itertools
import json
import os
import shlex
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from PIL import Image

import isospike
from isospike import own_rows
from isospike.data import DATA, DataSpec
from isospike.errors import ConfigError
from isospike.objectives import OBJECTIVES
from isospike.optimizers import OPTIMIZERS
from isospike.recipes import load_recipe
from isospike.run_folder import RunFolder
from isospike.schedules import SCHEDULES
from isospike.sweep import plan_sweep, save_plan
from isospike.train.environment import environment
from test_cli import call

ROWS = """
import math
from dataclasses import dataclass
from typing import Literal

import torch

import isospike as iso
from isospike.data import DATA, ArrayImages, Dataset, DataSpec
from isospike.objectives import OBJECTIVES, ObjectiveSpec
from isospike.optimizers import OPTIMIZERS, OptimSpec
from isospike.residual import JOINS
from isospike.schedules import SCHEDULES, ScheduleSpec


@dataclass(frozen=True)
class Cosine(iso.Surrogate):
    def primitive(self, u):
        return ((u.clamp(-0.5, 0.5) * math.pi).sin() + 1) / 2

    def derivative(self, u):
        return math.pi / 2 * (math.pi * u).cos() * (u.abs() < 0.5)


class Drain(iso.IF):
    def __init__(self, *, loss=0.5, **rule):
        super().__init__(**rule)
        self.loss = loss

    def coefficients(self):
        return 1 - self.loss, 1.0


@DATA.add
class Stripes(DataSpec):
    kind: Literal["stripes"]
    size: int = 12

    def load(self):
        labels = torch.arange(32) % 2
        waves = (torch.arange(self.size) % 4 < 2).float().expand(32, 1, self.size, self.size) * 200
        images = torch.where(labels.bool()[:, None, None, None], waves.mT, waves)
        noise = torch.rand(images.shape, generator=torch.Generator().manual_seed(0))
        split = ArrayImages((images + 55 * noise).to(torch.uint8), labels)
        return Dataset("stripes", split, split, ("columns", "rows"), 1, self.size, (0.5,), (0.4,))


@OPTIMIZERS.add
class Adagrad(OptimSpec):
    kind: Literal["adagrad"]
    initial: float = 0.0

    @property
    def moments(self):
        return 1

    def build(self, groups, **options):
        return torch.optim.Adagrad(groups, initial_accumulator_value=self.initial, **options)


@SCHEDULES.add
class Halves(ScheduleSpec):
    kind: Literal["halves"]

    def after_warmup(self, lr, step, warmup, steps_per_epoch, epochs):
        return lr / 2 ** (step // steps_per_epoch)


@OBJECTIVES.add
class Margin(ObjectiveSpec):
    kind: Literal["margin"]

    def loss(self, logits, targets, class_weights=None):
        return torch.nn.functional.multi_margin_loss(logits.mean(0), targets)


iso.SURROGATES.register("cosine", Cosine)
iso.NEURONS.register("drain", Drain)
neuron = {"kind": "drain", "v_threshold": 0.5, "surrogate": {"kind": "cosine"}}
words = {"cell": "spike conv norm", "last": "spike conv norm", "project": "conv norm", "join": JOINS["add"]}
iso.TOPOLOGIES.register("mine", iso.Topology(name="mine", source="nobody", neuron=neuron, **words))
"""
SETTINGS = ["data={kind: stripes}", "model.T=2", "train.epochs=2", "train.batch_size=8", "train.tensorboard=false"]
OPTIONS = ["--recipe", "digits_ms_resnet20", *(word for setting in SETTINGS for word in ("--set", setting))]


def isospike_in(folder, *commands):
    """Run commands in one new process there; what is registered in this one would meet the other tests."""
    code = (
        "import sys\nfrom isospike.cli.app import main\n"
        f"for words in {[[str(word) for word in command] for command in commands]}:\n"
        "    sys.argv = ['isospike', *words]\n"
        "    try:\n        main()\n"
        "    except SystemExit as left:\n"
        "        if left.code:\n            raise\n"
    )
    # The main guard: a sweep spawns processes, which import this file again.
    script = folder / "script" / "commands.py"  # not beside the rows, which a script would find there
    script.parent.mkdir(exist_ok=True)
    script.write_text("if __name__ == '__main__':\n" + "".join(f"    {x}\n" for x in code.split("\n")))
    variables = {**os.environ, "PYTHONPATH": str(Path(isospike.__file__).parent.parent), "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, script], cwd=folder, env=variables, capture_output=True, text=True)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with the rows, an image, a run that was stopped at its third step, and a sweep of two processes."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "my_rows.py").write_text(ROWS)
    Image.fromarray(np.tile(np.array([200, 200, 0, 0] * 3, np.uint8), (12, 1))).save(folder / "columns.png")
    own = [*OPTIONS, "--import", "my_rows.py"]
    learning = ["optim={kind: adagrad, lr: 0.05}", "schedule={kind: halves}", "objective={kind: margin}"]
    sets = [word for setting in ("model.name=mine_resnet8", *learning) for word in ("--set", setting)]
    train = ["train", *own, *sets, "--max-steps", "3", "--out", "run"]
    sweep = ["sweep", *own, "--set", "train.epochs=1", "--topologies", "mine", "--depths", "8", "--seeds", "0,1"]
    report = ["report", "run", "--import", "my_rows.py"]
    done = isospike_in(folder, train, report, [*sweep, "--jobs", "2", "--out", "sweep"])
    assert done.returncode == 0, done.stderr
    shutil.copy(folder / "run" / "report.html", folder / "page.html")
    assert "isospike train --resume run --import my_rows.py" in done.stdout
    return folder


def test_a_run_records_the_code_that_it_was_made_with(place):
    config = (place / "run" / "config.yaml").read_text()
    assert f"imports:\n  my_rows.py: {hashlib.sha256(ROWS.encode()).hexdigest()}\n" in config


def test_a_report_names_the_code_in_what_it_says_to_do(place):
    page = (place / "page.html").read_text()
    for command in ("train --resume", "eval", "analyze", "energy"):
        assert f"isospike {command} run --import my_rows.py" in page


def test_a_folder_that_is_taken_is_gone_on_with_by_the_same_code(tmp_path, monkeypatch):
    monkeypatch.setattr(own_rows, "_IMPORTED", {"my_rows.py": own_rows})
    monkeypatch.setitem(sys.modules, "my_rows", own_rows)
    run = RunFolder(tmp_path / "run")
    run.create(load_recipe("digits_ms_resnet20"), {})
    with pytest.raises(ConfigError, match="continue it with --resume .*run --import my_rows.py, or name another --out"):
        run.create(load_recipe("digits_ms_resnet20"), {})
    plan = {"recipe": "digits_sweep", "topologies": ["ms"], "depths": [8], "seeds": [0]}
    save_plan(plan_sweep(tmp_path, **plan))
    with pytest.raises(ConfigError, match="continue it with --resume .* --import my_rows.py, or name another --out"):
        save_plan(plan_sweep(tmp_path, **plan))


@pytest.mark.parametrize("command", [["train", "--resume"], ["eval"], ["predict"], ["analyze"], ["energy"], ["report"]])
def test_a_run_folder_never_has_its_code_imported_by_itself(place, capsys, command):
    """It may come from anybody. Its own kind of data is not known either, and that is not what is said."""
    call(*command, place / "run", *(["columns.png"] if command == ["predict"] else []), expect=2)
    said = capsys.readouterr().err.strip()
    assert "\n" not in said
    assert "config.yaml was made with code of its own, and isospike runs none because a file names it" in said
    assert said.endswith("if you trust my_rows.py, give --import my_rows.py, or in Python import it first")
    assert "my_rows" not in sys.modules


def test_every_command_goes_on_with_own_rows(place):
    """Resumed, evaluated, predicted, analysed; the path may be another, it is the module that counts."""
    own = ["--import", place / "my_rows.py"]
    done = isospike_in(
        place,
        ["train", "--resume", "run", *own],
        ["eval", "run", *own],
        ["predict", "run", "columns.png", "--json", *own],
        ["analyze", "run", "--batch", "4", "--probes", "2", *own],
        ["energy", "run", *own],
        ["report", "run", *own],
        ["models", "mine_resnet8", *own],
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    run = RunFolder(place / "run")
    assert run.read_analysis("test")["accuracy"] == 1.0
    assert {path.stem for path in (place / "run" / "analysis").iterdir()} >= {"isometry", "energy", "flow"}
    assert "mine: drain neurons at threshold 0.5; nobody" in done.stdout
    (result,) = json.loads(done.stdout[done.stdout.index("[\n") : done.stdout.index("\n]\n") + 2])
    assert result["predictions"][0]["class"] == "columns"


def test_a_sweep_hands_own_rows_to_its_processes(place):
    for cell in ("mine_resnet8-seed0", "mine_resnet8-seed1"):
        assert RunFolder(place / "sweep" / cell).read_analysis("test")["accuracy"] > 0
        assert "my_rows.py: " in (place / "sweep" / cell / "config.yaml").read_text()


@pytest.mark.parametrize(("file", "classes"), [("my_rows", ["columns", "rows"]), ("my_events", ["left", "right"])])
def test_the_rows_that_contributing_shows_train(tmp_path, file, classes):
    text = (Path(__file__).parent.parent / "CONTRIBUTING.md").read_text()
    codes = [block.split("```")[0] for block in text.split("```python\n") if "@DATA.add" in block]
    (command,) = (line for line in text.split("\n") if line.startswith(f"isospike train --import {file}.py"))
    (tmp_path / f"{file}.py").write_text(codes[file == "my_events"])
    for side, number in itertools.product(("left", "right"), range(15)):  # of events; the other file does not look
        (tmp_path / "SWIPES" / side).mkdir(parents=True, exist_ok=True)
        t, x, y, p = np.random.default_rng(number).integers(0, 2, (4, 50)) + [[0], [side == "right"], [0], [0]]
        np.savez(tmp_path / "SWIPES" / side / f"{number}.npz", t=np.sort(t), x=x, y=y, p=p)
    quick = f"--set train.epochs=1 --set train.batch_size=8 --set train.tensorboard=false --out {tmp_path / 'run'}"
    quick += " --set model.T=2" if file == "my_rows" else f" --set data.cache={tmp_path / 'cache'}"
    done = isospike_in(tmp_path, shlex.split(f"{command} {quick}")[1:])
    assert done.returncode == 0, done.stderr
    halving = "schedule:\n  kind: halving\n" in (tmp_path / "run" / "config.yaml").read_text()
    assert halving == (file == "my_rows")
    assert RunFolder(tmp_path / "run").read_analysis("test")["classes"] == classes


# What is wrong with the code -----------------------------------------------------------------------------------------


@pytest.fixture
def leave_no_module(monkeypatch, tmp_path):
    """What a test writes and imports is forgotten after it."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(own_rows, "_IMPORTED", {})
    yield
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None)).startswith(str(tmp_path)):
            del sys.modules[name]


WRONG = {
    "x = 1\ny = x +\n": "line 2: invalid syntax",
    "x = 1\n\ny = z\n": "line 3: NameError: name 'z' is not defined",
    "def f():\n    return 1 / 0\n\n\nf()\n": "line 2: ZeroDivisionError: division by zero",
    "import nowhere_at_all\n": "line 1: ModuleNotFoundError: No module named 'nowhere_at_all'",
    "import isospike as iso\niso.create_model('mz_resnet20')\n": "line 2: unknown model 'mz_resnet20'; nearest: ",
    "import isospike as iso\niso.NEURONS.register('lif', iso.LIF)\n": "line 2: ValueError: neuron 'lif' is registered",
}  # fmt: skip


@pytest.mark.parametrize("code", WRONG)
@pytest.mark.usefixtures("leave_no_module")
def test_an_error_in_ones_own_file_has_its_line(tmp_path, monkeypatch, capsys, code):
    monkeypatch.chdir(tmp_path)
    Path("broken_rows.py").write_text(code)
    call("models", "ms_resnet8", "--import", "broken_rows.py", expect=2)
    *traceback, sentence = capsys.readouterr().err.strip().split("\n")
    assert sentence.startswith(f"error: {tmp_path / 'broken_rows.py'}, {WRONG[code]}")
    assert "broken_rows" not in sys.modules
    if "Error" in WRONG[code]:
        assert traceback[0].strip().startswith(f'File "{tmp_path / "broken_rows.py"}", line ')
        assert "importlib" not in "".join(traceback)
    else:  # ours, or its syntax: the sentence says all
        assert traceback == []


@pytest.mark.usefixtures("leave_no_module")
def test_a_file_may_import_its_neighbours_and_is_imported_once(tmp_path, monkeypatch):
    (tmp_path / "near_by.py").write_text("count = []\n")
    (tmp_path / "once_rows.py").write_text("import near_by\nnear_by.count.append(1)\n")
    monkeypatch.chdir(tmp_path)
    own_rows.import_rows(["once_rows.py", str(tmp_path / "once_rows.py"), "once_rows"])
    assert sys.modules["near_by"].count == [1]
    assert set(own_rows.imported()) == {"once_rows.py", str(tmp_path / "once_rows.py"), "once_rows"}


@pytest.mark.usefixtures("leave_no_module")
def test_code_that_has_changed_since_is_said_once(tmp_path, recwarn):
    (tmp_path / "changed_rows.py").write_text("x = 1\n")
    with pytest.raises(ConfigError, match="if you trust changed_rows, give --import changed_rows, or in Python import"):
        own_rows.check_imported({"changed_rows": "0"}, "a run")
    own_rows.import_rows([str(tmp_path / "changed_rows.py")])
    (digest,) = own_rows.imported().values()
    own_rows.check_imported({"elsewhere/changed_rows.py": digest, "changed_rows": digest}, "a run")
    assert not recwarn.list
    for _ in range(2):
        own_rows.check_imported({"elsewhere/changed_rows.py": "0"}, "a run")
    assert [str(w.message) for w in recwarn.list] == [
        "elsewhere/changed_rows.py has changed since a run was made with it"
    ]


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("nowhere.py", "there is no file nowhere.py to import"),
        ("two-words.py", "two-words.py cannot be a module, as 'two-words' is no name of Python"),
        ("json.py", r"json.py would be the module 'json', which .*json/__init__.py is already: rename the file"),
        ("sys.py", "sys.py would be the module 'sys', which a part of Python is already"),
        ("local_rows", "there is no module 'local_rows' to import: for the file of this name, give local_rows.py"),
        ("no_such.module", r"there is no module 'no_such.module' to import$"),
        ("a folder/", "--import takes a file that ends in .py or the name of a module, got 'a folder/'"),
    ],
)
@pytest.mark.usefixtures("leave_no_module")
def test_what_cannot_be_imported_is_refused(tmp_path, monkeypatch, source, says):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    for name in ("two-words.py", "json.py", "sys.py", "local_rows.py"):
        Path(name).write_text("")
    with pytest.raises(ConfigError, match=rf"^{says}"):
        own_rows.import_rows([source])


# Installed packages --------------------------------------------------------------------------------------------------


@pytest.fixture
def package(tmp_path, monkeypatch, leave_no_module):
    """A package that offers rows, as pip would leave it."""
    info = tmp_path / "their_rows-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: their-rows\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text("[isospike.rows]\nneurons = their_rows\n")
    (tmp_path / "their_rows.py").write_text("seen = True\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    own_rows.import_installed.cache_clear()
    yield tmp_path / "their_rows.py"
    own_rows.import_installed.cache_clear()


@pytest.mark.usefixtures("package")
def test_the_rows_of_installed_packages_are_there_and_recorded():
    call("models", "ms_resnet8")
    assert sys.modules["their_rows"].seen
    assert environment(torch.device("cpu"))["packages"]["their-rows"] == "1.2"
    assert load_recipe("digits_ms_resnet20").imports == {}  # who installed them has agreed to run them


def test_a_package_whose_rows_fail_is_named(package, capsys):
    package.write_text("raise OSError('no licence')\n")
    call("models", "ms_resnet8", expect=2)
    said = capsys.readouterr().err.strip()
    assert said == (
        "error: the package 'their-rows' offers rows in their_rows, and importing them fails: "
        "OSError: no licence; mend or uninstall it"
    )


def test_this_package_offers_no_rows_to_itself():
    own_rows.import_installed.cache_clear()
    assert own_rows.import_installed() == {
        point.dist.name: point.dist.version for point in metadata.entry_points(group="isospike.rows")
    }


# Rows of a registry of kinds -----------------------------------------------------------------------------------------


def test_a_row_must_say_its_kind():
    class Nameless(DataSpec):
        size: int = 3

    with pytest.raises(ConfigError, match=r'^Nameless must say its kind, as in kind: Literal\["nameless"\]$'):
        DATA.add(Nameless)


@pytest.mark.parametrize("kinds", [DATA, OPTIMIZERS, SCHEDULES, OBJECTIVES], ids=lambda kinds: kinds.what)
def test_a_row_that_lacks_what_its_base_asks_for_is_refused(kinds):
    base = next(iter(kinds.rows())).__mro__[1]

    class Empty(base):
        kind: Literal["empty"]

    with pytest.raises(ConfigError, match=rf"^Empty must define \w+(, \w+)*, as every {kinds.what} does$"):
        kinds.add(Empty)
    assert "empty" not in kinds


@pytest.mark.parametrize("kinds", [DATA, OPTIMIZERS, SCHEDULES, OBJECTIVES], ids=lambda kinds: kinds.what)
def test_no_kind_is_registered_twice(kinds):
    row = next(iter(kinds.rows()))
    with pytest.raises(ValueError, match=f"^{kinds.what} '.*' is registered twice$"):
        kinds.add(row)

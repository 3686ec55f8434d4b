"""The bench: arithmetic by hand, turns in turn, no ratio without equality, and a fake peer that speaks the protocol."""

import json
import math
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

import isospike as iso
from bench_here import fake_peer_script, near
from bench_results import growth_result, result, row
from isospike import own_rows
from isospike.bench import PEERS, SUITES, Case, Plan, compare, contestants, line_up, measure_case
from isospike.bench.cases import GROWTH
from isospike.bench.describe import describe, describe_neuron, fire_tensors, firing_share, network_tensors
from isospike.bench.growth import charts, curves, exponents
from isospike.bench.measure import interleaved
from isospike.bench.ours import build
from isospike.bench.peers.nets import Net, convolution, max_pool, mean_pool
from isospike.bench.saved import read_result, render
from isospike.bench.setup import REQUIREMENTS
from isospike.bench.table import lines, markdown, ratio, refusals, title
from isospike.bench.worker import Worker
from isospike.errors import ConfigError, RunFailed
from isospike.layers import MEMORY
from isospike.neurons import SpikingNeuron
from test_architectures import build as documents
from test_cli import call

__all__ = ["near"]  # pytest finds it here

PLAN = Plan("cpu", threads=1, repeats=3, seconds=0)


def test_ratios_are_of_turns_not_of_medians():
    found = ratio([1.0, 8.0, 9.0], [1.0, 2.0, 9.0])  # turn by turn 1, 4, 1
    assert found["median"] == 1.0
    assert found["quartiles"] == [1.0, 2.5]


def test_the_table_by_hand():
    ours, floor, peer = lines(row(Case("train", "ms_resnet20", batch=32)))
    assert ours == ["isospike", "200", "150-250", "160", "100", "2.00x", "3.00x (2.50-3.50)"]
    assert floor == ["convolutions", "100", "75.0-150", "-", "-", "-", "-"]
    # Turns: 4x, 2x, 3x ours; 8x, 4x, 4.5x the floor.
    assert peer == ["spikingjelly", "400", "400-650", "80", "250", "4.50x", "-"]


def test_no_speed_up_without_equality():
    unequal = row(Case("train", "ms_resnet20"), agree=False)
    assert lines(unequal)[2][-1] == "not comparable"
    (sentence,) = refusals(unequal)
    assert sentence.startswith("not comparable: spikingjelly, ms_resnet20, training step")
    assert sentence.endswith("difference of loss is 0.5, at most 0.05 is allowed")
    assert "3.00x (" not in markdown(result([unequal]))
    assert "3.00x (" in markdown(result([row(Case("train", "ms_resnet20"))]))
    assert refusals(row(Case("train", "ms_resnet20"))) == []


def test_everyone_has_a_turn_before_anyone_has_another():
    order = []

    class Fake:
        def __init__(self, name):
            self.name = name

        def run(self, least):
            order.append(self.name)
            return float(len(order))

    found = interleaved({"a": Fake("a"), "b": Fake("b")}, repeats=4, seconds=60)
    assert "".join(order) == "abababab"
    assert found == {"a": [1, 3, 5, 7], "b": [2, 4, 6, 8]}
    assert len(interleaved({"a": Fake("a")}, repeats=9, seconds=0)["a"]) == 3, "no further turn once time is up"


def test_comparisons():
    a = {"logits": torch.tensor([1.0, 2.0]), "loss": torch.tensor(1.0), "grad conv": torch.ones(1, 1, 2, 2)}
    assert all(check.holds for check in (*compare.exactly(a, a), *compare.closely(a, a), *compare.alike(a, a)))
    for name, value in (
        ("logits", torch.tensor([2.0, -1.0])),
        ("loss", torch.tensor(1.2)),
        ("loss", torch.tensor(math.nan)),
        ("grad conv", torch.full((1, 1, 2, 2), 1.6)),
        ("grad conv", torch.zeros(1, 1, 2, 2)),
    ):
        b = {**a, name: value}
        for compared in (compare.exactly(a, b), compare.closely(a, b), compare.alike(a, b)):
            assert not all(check.holds for check in compared), name
    (worst,) = compare.closely(a, {**a, "loss": torch.tensor(1.0001)})
    assert (worst.what, worst.holds) == ("float64: difference of loss", False)
    missing = {name: value for name, value in a.items() if name != "loss"}
    assert not all(check.holds for check in compare.closely(a, missing))


def test_no_potential_of_the_compared_neurons_meets_its_threshold():
    """Strict or not, the spikes are the same, and so for the edges of the rectangle."""
    x = fire_tensors(T=4, batch=2, channels=3, size=8)["x"]
    spikes = []
    for strict in (True, False):
        neuron = iso.LIF(decay=0.5, v_threshold=0.5, strict=strict, surrogate="rectangle")
        spikes.append(neuron(x)[0])
    assert torch.equal(*spikes)
    assert 0.2 < spikes[0].mean() < 0.8


class Spikes(nn.Module):
    """Any neuron of ours in a network of a peer."""

    def __init__(self, spec):
        super().__init__()
        self.spec = spec
        surrogate = iso.surrogates.SURROGATES[spec["surrogate"]](spec["surrogate_parameter"])
        rule = {key: spec[key] for key in ("v_threshold", "reset", "v_reset", "detach_reset")}
        leak = {"decay": spec["decay"]} if spec["gain"] == 1 else {"tau": 1 / spec["gain"]}
        self.neuron = iso.LIF(surrogate=surrogate, **leak, **rule)

    def forward(self, x):
        return self.neuron(x)[0]


class Folded(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(x.flatten(0, 1)).unflatten(0, x.shape[:2])


@pytest.mark.parametrize(
    ("name", "size"), [*((f"{topology}_resnet8", 16) for topology in iso.TOPOLOGIES), ("ms_resnet18", 64)]
)
def test_a_described_network_is_the_same_function(name, size):
    """Built anew from the description, as peers build it, in float64: logits, loss and every gradient."""
    model = iso.create_model(name, T=2)
    if model.topology.norm_root_eps:
        with pytest.raises(ConfigError, match="peers have no norm with root_eps"):
            describe(model)
        model = iso.create_model(name, T=2, norm_eps=1e-5, norm_root_eps=0.0)
    neuron = next(module for module in model.modules() if isinstance(module, SpikingNeuron))
    if neuron.levels > 1:
        with pytest.raises(ConfigError, match="no peer computes"):
            describe(model)
        return
    net_of = describe(model)
    tensors = network_tensors(model, batch=2, size=size)
    makers = {
        "conv": lambda spec: Folded(convolution(nn.Conv2d, spec)),
        "norm": lambda spec: Folded(nn.BatchNorm2d(spec["channels"], eps=spec["eps"])),
        "pool": lambda spec: Folded(mean_pool(nn.AvgPool2d, spec)),
        "max_pool": lambda spec: Folded(max_pool(nn.MaxPool2d, spec)),
        "linear": lambda spec: Folded(nn.Linear(spec["in"], spec["out"], bias=spec["bias"])),
        "spike": lambda spec: Spikes(spec["neuron"]),
    }
    net = Net(net_of, makers, 2)
    net.layers = {name: m.layer if isinstance(m, Folded) else nn.Identity() for name, m in net.layers.items()}
    net.double().train()
    net.load(tensors)
    job = {"model": name, "T": 2, "options": {}, "work": "train", "device": "cpu"}
    job |= {"precision": "float64", "setting": {"contestant": "network"}}
    ours = build(job, tensors).outputs()
    x, y = tensors["x"].double(), tensors["y"]
    loss = nn.functional.cross_entropy(net(x), y)
    loss.backward()
    theirs = {"logits": net(x).detach(), "loss": loss.detach()}
    for name, layer in net.layers.items():
        theirs |= {f"grad {name}.{key}": p.grad for key, p in layer.named_parameters()}
    checks = compare.closely(ours, theirs)
    assert all(check.holds for check in checks), checks
    assert max(check.value for check in checks) < 1e-9


@pytest.mark.parametrize("neuron", [iso.MLF(), iso.ILIF(), iso.PLIF()])
def test_neurons_that_no_peer_has_are_refused(neuron):
    with pytest.raises(ConfigError, match="no peer computes"):
        describe_neuron(neuron)


FAKE = fake_peer_script(
    """
    v, spikes = 0.0, []
    for x in given["x"]:
        h = 0.5 * v + x
        s = (h >= 0.5).float()
        v = h * (1 - s)
        spikes.append(s)
    spikes = torch.stack(spikes)
    WRONG
    found = {"spikes": spikes}
    """,
    seconds='0.5 if job["setting"]["channels_last"] else 0.25',
)


@pytest.fixture
def fake_peer(tmp_path, monkeypatch):
    """Puts a script in the place of SpikingJelly's."""

    def put(script):
        (tmp_path / "on_spikingjelly.py").write_text(script)
        monkeypatch.setattr(contestants, "SCRIPTS", tmp_path)
        return Path(sys.executable)

    return put


TINY_FIRE = Case("fire", "2 channels", batch=1, T=3, size=4, peer="spikingjelly")


FRAMES = Case("frames", "5,000 events", batch=1, T=4, size=16, peer="spikingjelly", every_mode=False)
# Counts one event after the other.
FAKE_FRAMES = fake_peer_script("""
    frames = torch.zeros(job["T"], 2, job["size"], job["size"])
    for n, (x, y, p) in enumerate(zip(*(given[name].tolist() for name in "xyp"))):
        frames[n * job["T"] // len(given["t"]), p, y, x] += 1
    WRONG
    found = {"frames": frames}
""")


@pytest.mark.parametrize(("wrong", "agree"), [("", True), ("frames[0, 0, 0, 0] += 1", False)])
def test_frames_are_compared_count_by_count(near, fake_peer, wrong, agree):
    python = fake_peer(FAKE_FRAMES.replace("WRONG", wrong))
    found = measure_case(FRAMES, line_up(FRAMES, python, "cpu", False), PLAN)
    assert [one["role"] for one in found["contestants"]] == ["ours", "floor", "peer"]
    assert found["contestants"][2]["setting"] == {}
    assert [one["agree"] for one in found["equality"]] == [agree]
    assert title(found).startswith("5,000 events, frames by count: T=4, batch 1, 16x16")


def test_a_peer_without_networks_is_refused(tmp_path):
    (tmp_path / "python").touch()
    with pytest.raises(ConfigError, match="tonic does not do the work 'train': it does frames"):
        line_up(Case("train", "ms_resnet8", peer="tonic"), tmp_path / "python", "cpu", False)


def test_a_peer_gets_its_best_setting_and_its_ratio(near, fake_peer):
    python = fake_peer(FAKE.replace("WRONG", ""))
    found = measure_case(TINY_FIRE, line_up(TINY_FIRE, python, "cpu", False), PLAN)
    ours, floor, peer = found["contestants"]
    assert [one["role"] for one in (ours, floor, peer)] == ["ours", "floor", "peer"]
    assert peer["setting"] == {"channels_last": False}
    assert [one["seconds"] for one in peer["trial"]] == [0.25, 0.5]
    assert peer["seconds"]["all"] == [0.25] * 3
    assert (peer["peak_memory_mb"], peer["versions"]) == (7.0, {"fake": "1"})
    assert [one["agree"] for one in found["equality"]] == [True]
    speed_up = ratio([0.25] * 3, ours["seconds"]["all"])["median"]
    assert lines(found)[0][-1].startswith(f"{speed_up:.2f}x (")


def test_one_wrong_spike_refuses_the_ratio_and_exits_1(near, fake_peer, monkeypatch, tmp_path, capsys):
    fake_peer(FAKE.replace("WRONG", "spikes[0, 0, 0, 0, 0] = 1 - spikes[0, 0, 0, 0, 0]"))
    monkeypatch.setitem(SUITES._items, "tiny", lambda: [TINY_FIRE])
    saved = tmp_path / "saved.json"
    arguments = ["--suite", "tiny", "--device", "cpu", "--repeats", 3, "--seconds", 0, "--peer-env", sys.prefix]
    call("bench", *arguments, "--out", saved, expect=1)
    said = capsys.readouterr()
    assert "not comparable" in said.out
    assert "differing values of spikes is 1, at most 0 is allowed" in said.err.replace("\n", " ")
    assert json.loads(saved.read_text())["rows"][0]["equality"][0]["agree"] is False


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("raise SystemExit('no library')", "no library"),
        (FAKE.replace("import torch", "1/0"), "division by zero"),
    ],
)
def test_a_contestant_that_ends_says_its_last_words(script, said, tmp_path):
    file = tmp_path / "script.py"
    file.write_text(script)

    def ask():
        with Worker("them", [sys.executable, str(file)], threads=1) as worker:
            worker.prepare({"setting": {"channels_last": True}})
            worker.outputs(tmp_path / "outputs.pt")

    with pytest.raises(RunFailed, match=f"the contestant 'them' ended: .*{said}"):
        ask()


def test_training_is_measured_in_every_memory_mode(tmp_path):
    case = Case("train", "ms_resnet8")
    names = [one.name for one in line_up(case, tmp_path, "cpu", False)]
    assert names == [*(f"isospike {name}" for name in MEMORY), "convolutions"]
    names = [one.name for one in line_up(replace(case, every_mode=False), tmp_path, "cpu", False)]
    assert names == ["isospike", "convolutions"]


def test_a_tiny_bench_from_end_to_end(tmp_path, capsys):
    saved = tmp_path / "saved.json"
    arguments = ["--work", "infer", "--batch", 2, "--T", 2, "--repeats", 3, "--seconds", 0, "--device", "cpu"]
    call("bench", "--model", "ms_resnet8", *arguments, "--out", saved, "--json")
    (found,) = json.loads(capsys.readouterr().out)["rows"]
    assert (found["work"], found["batch"], found["T"], found["peer"]) == ("infer", 2, 2, None)
    *ours, floor = found["contestants"]
    assert ours[0]["name"] == "isospike"
    assert floor["name"] == "convolutions"
    assert all(len(one["seconds"]["all"]) == 3 and min(one["seconds"]["all"]) > 0 for one in found["contestants"])
    assert [equality["agree"] for equality in found["equality"]] == [True] * (len(ours) - 1)
    assert all(0 < one["peak_memory_mb"] < 500 for one in ours)
    assert ours[0]["versions"]["isospike"] == iso.__version__
    call("bench", "--markdown", saved)
    printed = capsys.readouterr().out
    assert printed.strip() == render(read_result(saved)).strip()
    assert "| isospike | " in printed


OWN_ROW = """
import isospike as iso
words = {"cell": "spike conv norm", "last": "spike conv norm", "project": "conv norm", "neuron": {"kind": "if"}}
iso.TOPOLOGIES.register("mine", iso.Topology(name="mine", source="nobody", join=iso.residual.JOINS["add"], **words))
"""


@pytest.mark.onnx
def test_exported_networks_beside_ours(near, tmp_path, capsys):
    """Both forms, equal to ours in float64, and static in int8, whose weights are rounded."""
    target = tmp_path / "bench.json"
    options = ["--work", "infer", "--batch", 2, "--T", 2, "--repeats", 3, "--seconds", 0, "--device", "cpu"]
    call("bench", "--model", "ms_resnet8", "--peer", "onnxruntime", *options, "--out", target)
    said = capsys.readouterr().out
    (row,) = json.loads(target.read_text())["rows"]
    files = {one["name"]: one["file"] for one in row["contestants"] if "file" in one}
    assert list(files) == [f"onnxruntime {words}" for words in ("static float32", "step float32", "static int8")]
    assert all(file["opset"] == 18 for file in files.values())
    assert files["onnxruntime static int8"]["megabytes"] < files["onnxruntime static float32"]["megabytes"]
    assert "onnxruntime static int8 runs a file of 0." in said
    exact = {one["of"] for one in row["equality"] if any("float64" in check["what"] for check in one["checks"])}
    assert exact == {"onnxruntime static float32", "onnxruntime step float32"}
    assert all(one["agree"] for one in row["equality"])


@pytest.mark.onnx
def test_a_runtime_of_files_is_for_the_cpu_and_float32():
    case = Case("infer", "ms_resnet8", peer="onnxruntime")
    for device, precision in (("cuda", "float32"), ("cpu", "bf16")):
        with pytest.raises(ConfigError, match="onnxruntime runs exported networks on the CPU, in float32 or int8"):
            line_up(replace(case, precision=precision), Path("nowhere"), device, compiled=False)
    with pytest.raises(ConfigError, match="onnxruntime does not do the work 'train': it does infer"):
        line_up(replace(case, work="train"), Path("nowhere"), "cpu", compiled=False)


def test_contestants_import_rows_of_ones_own(tmp_path, monkeypatch):
    """It knows the network and misses the weights, which only a process that has the row can write."""
    (tmp_path / "row.py").write_text(OWN_ROW)
    monkeypatch.setattr(own_rows, "_IMPORTED", {str(tmp_path / "row.py"): own_rows})
    ours, *_, floor = line_up(Case("infer", "mine_resnet8"), Path("none"), "cpu", compiled=False)
    assert ours.command == floor.command
    job = {"model": "mine_resnet8", "T": 1, "options": {}, "tensors": str(tmp_path / "tensors.pt"), "device": "cpu"}
    torch.save({}, job["tensors"])
    with Worker("ours", ours.command, threads=1) as worker, pytest.raises(RunFailed, match="'stem.norm.weight'"):
        worker.prepare({**job, "work": "infer", "precision": "float32", "setting": {"contestant": "network"}})


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "either --suite"),
        (["--suite", "quick", "--model", "ms_resnet8"], "either --suite"),
        (["--suite", "qick"], "unknown suite 'qick'; nearest: quick"),
        (["--suite", "quick", "--batch", 4], "--batch goes with --model"),
        (["--suite", "growth", "--peer", "snntorch"], "the suite 'growth' has no row against snntorch"),
        (["--model", "ms_resnet8", "--peer", "spikingjely"], "unknown peer 'spikingjely'; nearest: spikingjelly"),
        (["--model", "ms_resnet8", "--work", "trian"], "unknown work 'trian'; nearest: train"),
        (["--model", "ms_resnet8", "--precision", "fp16"], "unknown precision 'fp16'"),
        (["--model", "ms_resnet9", "--peer", "none"], "ms_resnet9"),
        (["--model", "ms_resnet8", "--peer", "snntorch", "--peer-env", "nowhere"], "isospike bench --setup"),
        (["--markdown", "nowhere.json"], "no bench can be read from nowhere.json"),
        (["--markdown", "other.json"], "other.json is not a result of isospike bench"),
        (["--markdown", "older.json"], "older.json lacks 'threads': another version wrote it; make it anew"),
        (
            ["--markdown", "odd.json"],
            "odd.json holds another kind of value than isospike writes (no contestant is the floor)",
        ),
    ],
)
def test_mistakes_get_a_sentence(arguments, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    odd = row(Case("train", "ms_resnet8"))
    del odd["contestants"][1]
    older = {"header": {"command": "", "started": "", "cpu": ""}, "rows": []}
    for file, content in {"other.json": [], "older.json": older, "odd.json": result([odd])}.items():
        Path(file).write_text(json.dumps(content))
    call("bench", *arguments, "--device", "cpu", expect=2)
    assert said in capsys.readouterr().err
    assert not Path("bench.json").exists()


@pytest.mark.parametrize("suite", SUITES)
def test_suites_name_models_and_peers_that_exist(suite):
    cases = SUITES[suite]()
    assert cases
    for case in cases:
        assert case.peer is None or case.peer in PEERS
        if case.has_network or case.converts:
            with torch.device("meta"):
                describe(iso.create_model(case.model, T=case.T, **case.options))


def test_growth_by_hand():
    assert exponents([(1, 10), (2, 20), (4, 80), (8, 80)]) == pytest.approx([1, 2, 0])
    found = growth_result()
    assert [value for _, value in curves(found)["T"]["training step, milliseconds"][:2]] == pytest.approx([10, 40])
    text = render(found)
    assert "**width**, at T 4, batch 8, depth 20" in text
    assert "| 64 | 40,960 | 2.00 | 100 | 0.00 | 100 | 0.00 |" in text
    drawn = charts(found)
    assert len(drawn) == 2 * len(GROWTH)
    assert {point["series"] for point in drawn["T_milliseconds"]["data"]["values"]} == {
        "training step",
        "convolutions alone",
    }


def test_documents_take_their_tables_from_a_log(tmp_path, monkeypatch):
    monkeypatch.setattr(documents, "LOGS", tmp_path)
    found = result([row(Case("train", "ms_resnet20"))])
    (tmp_path / "some.json").write_text(json.dumps(found))
    page = documents.render("a\n<!-- generated: bench some.json -->\nold\n<!-- end -->\nb\n")
    assert page.startswith("a\n<!-- generated: bench some.json -->\n\nisospike bench: 2026-01-02, a, 2 threads.")
    assert "| isospike | 200 | 150-250 | 160 | 100 | 2.00x | 3.00x (2.50-3.50) |" in page
    assert "old" not in page


def test_the_peers_are_pinned():
    wanted = [line for line in REQUIREMENTS.read_text().splitlines() if line and not line.startswith("#")]
    assert all(line.count("==") == 1 for line in wanted)
    assert {"spikingjelly==2.0.0", "snntorch==1.0.0", "torch==2.13.0"} <= set(wanted)


def test_the_networks_of_a_bench_fire_as_networks_do():
    model = iso.create_model("ms_resnet20", T=4)
    tensors = network_tensors(model, batch=4, size=32)
    fresh = firing_share(iso.create_model("ms_resnet20", T=4), tensors["x"])
    assert firing_share(model, tensors["x"]) == pytest.approx(fresh, abs=0.03)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, SpikingNeuron):
                module.rule = replace(module.rule, v_threshold=1e9)
    assert firing_share(model, tensors["x"]) == 0

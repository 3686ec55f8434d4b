"""``isospike predict --stream``: a line per decision, from a file or a pipe, and what is said where there is none."""

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
import torch

import event_files
import isospike as iso
from event_files import WRITERS, some_events
from helpers import enliven
from isospike.config import parse_yaml, read_config
from isospike.events import decode
from isospike.run_folder import RunFolder, write_json
from isospike.weights import save_tensors
from test_cli import call

CONFIG = """
recipe: tiny
model: {name: ms_resnet8, T: 4, width: 4}
data: {kind: nmnist, T: 4, size: 16}
optim: {kind: sgd, lr: 0.05}
schedule: {kind: constant}
train: {epochs: 1, batch_size: 8}
"""
CLASSES = ["hand", "arm", "[bold]other"]
WINDOW = 6_000
EVENTS = some_events(300)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run on recordings, untrained."""
    run = RunFolder(tmp_path_factory.mktemp("stream") / "run")
    run.create(read_config(parse_yaml(CONFIG, "x"), "x"), {})
    torch.manual_seed(0)
    model = iso.create_model("ms_resnet8", T=4, width=4, in_channels=2, num_classes=3)
    save_tensors(run.weights, model.state_dict(), {})
    save_tensors(run.checkpoint("last"), {f"model.{k}": v for k, v in model.state_dict().items()}, {})
    facts = {"size": 16, "mean": [0.0, 0.0], "std": [1 / 255, 1 / 255], "classes": CLASSES, "T": 4}
    write_json(run.analysis("data"), {"name": "x", "note": "", **facts})
    return run.path


@pytest.fixture
def pipe(monkeypatch):
    """Puts a content into standard input."""

    def put(content):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))

    return put


def decisions(run, events, **options):
    stream = iso.Stream(iso.from_pretrained(run), **options, compiled=True)
    return [(d.start, d.end, d.events, d.label) for d in stream.run([events])]


@pytest.mark.parametrize("way", ["window", "count"])
def test_a_file_and_a_pipe_give_a_line_per_decision(run, tmp_path, pipe, capsys, way):
    content = event_files.evt3(EVENTS)
    (tmp_path / "recording.raw").write_bytes(content)
    value = {"window": WINDOW, "count": 40}[way]
    expected = decisions(run, decode(content, "x"), **{way: value})
    assert len(expected) > 5
    call("predict", run, "--stream", tmp_path / "recording.raw", f"--{way}", value, "--json")
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    found = [(d["start_us"], d["end_us"], d["events"], d["predictions"][0]["class"]) for d in lines]
    assert found == expected
    assert [(d["window"], d["steps"]) for d in lines] == [(n, n + 1) for n in range(len(expected))]
    assert all(abs(sum(p["probability"] for p in d["predictions"]) - 1) < 1e-5 for d in lines)
    assert all(d["latency_ms"] > 0 for d in lines)
    pipe(content)
    call("predict", run, "--stream", "-", f"--{way}", value)
    said = capsys.readouterr()
    line = re.compile(r" *([\d.]+) s +[\d.]+%  (.*)  \(([\d,]+) events, [\d.]+ ms\)")
    rows = [line.fullmatch(text).groups() for text in said.out.splitlines()]
    assert [(float(end), label, int(n)) for end, label, n in rows] == [(e / 1e6, c, n) for _, e, n, c in expected]
    unit = {"window": "6,000 us", "count": "40 events"}[way]
    left = len(EVENTS) - sum(d[2] for d in expected)
    assert left
    assert re.fullmatch(
        rf"note: {len(expected)} windows of {unit}; a decision took [\d.]+ ms on average and [\d.]+ ms at most; "
        rf"the last {left} events filled no window\n",
        said.err,
    )


@pytest.mark.parametrize(
    ("data", "way"),
    [
        ("bins: time, window: 6000", {"window": WINDOW}),
        ("bins: count, window: 40, stride: 40", {"count": 40}),
        ("bins: time, window: 6000, stride: 3000", None),
        ("bins: time", None),
    ],
)
def test_windows_are_those_of_the_training_where_they_follow_each_other(run, tmp_path, pipe, capsys, data, way):
    shutil.copytree(run, tmp_path / "run")
    config = read_config(parse_yaml(CONFIG.replace("size: 16", f"size: 16, {data}"), "x"), "x")
    (tmp_path / "run/config.yaml").write_text(config.to_yaml())
    pipe(event_files.evt3(EVENTS))
    call("predict", tmp_path / "run", "--stream", "-", "--json", expect=0 if way else 2)
    said = capsys.readouterr()
    if way is None:
        assert "give one of --window MICROSECONDS and --count EVENTS" in said.err
        return
    lines = [json.loads(line) for line in said.out.splitlines()]
    found = [(d["start_us"], d["end_us"], d["events"], d["predictions"][0]["class"]) for d in lines]
    assert found == decisions(run, decode(event_files.evt3(EVENTS), "x"), **way)


@pytest.mark.parametrize("kind", ["text", "aedat2", "npz"])
def test_other_formats_and_a_named_sensor(run, pipe, capsys, kind):
    format, write, sensor = WRITERS[kind]
    expected = decisions(run, decode(write(EVENTS), "x", sensor=(128, 128)), window=WINDOW)
    for named in ([], ["--format", format]):
        pipe(write(EVENTS))
        call("predict", run, "--stream", "-", "--window", WINDOW, "--json", "--sensor", "128x128", *named)
        lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert [(d["start_us"], d["end_us"], d["events"], d["predictions"][0]["class"]) for d in lines] == expected
    assert sensor in (None, (128, 128))


def test_late_events_and_restarts(run, pipe, capsys):
    swapped = list(EVENTS)
    swapped[40], swapped[60] = swapped[60], swapped[40]
    by = max(event[0] for event in swapped[40:60]) - swapped[60][0]
    pipe(event_files.dat2(swapped))
    call("predict", run, "--stream", "-", "--window", WINDOW, expect=2)
    assert re.search(
        r"^error: standard input: event [\d,]+ \(at byte [\d,]+\) is [\d,]+ us before the one in front of it; late=",
        capsys.readouterr().err,
        re.MULTILINE,
    )
    pipe(event_files.dat2(swapped))
    call("predict", run, "--stream", "-", "--window", WINDOW, "--late", by, "--restart", 3, "--json")
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert sum(line["events"] for line in lines) > 200
    assert [line["steps"] for line in lines][:5] == [1, 2, 3, 1, 2]


@pytest.mark.parametrize(
    ("arguments", "content", "message"),
    [
        (["--stream", "-"], b"", "give one of --window MICROSECONDS and --count EVENTS"),
        (["--stream", "-", "--window", "9", "--count", "3"], b"", "give one of --window MICROSECONDS and --count"),
        (["--stream", "-", "--window", "9", "image.png"], b"", "give files of images or recordings, or one"),
        ([], b"", "give files of images or recordings, or one recording with --stream"),
        (["event.bin", "--late", "9"], b"", "--late is of a stream: name the recording with --stream"),
        (["gone.bin"], b"", "gone.bin cannot be read: No such file or directory"),
        (["--stream", "-", "--count", "9", "--sensor", "34"], b"", "--sensor is WIDTHxHEIGHT in pixels, such as 34x34"),
        (["--stream", "-", "--count", "0", "--sensor", "34x34"], b"", "the number of events in a window is from 1 on"),
        (["--stream", "-", "--count", "9"], b"", "standard input is in no known format of events"),
        (["--stream", "gone.raw", "--count", "9"], b"", "gone.raw cannot be read: No such file or directory"),
        (["--stream", "-", "--count", "9"], b"0.1 3 4 1\n", "standard input does not say the size of the sensor"),
        (["--stream", "-", "--count", "9", "--sensor", "8x8"], b"0.1 3 4 1\n", "a sensor of 8x8 pixels is smaller"),
        (["--stream", "-", "--count", "9", "--sensor", "34x34"], b"0.1 3 4 1\n0.2 3\n", "standard input: line 2 is no"),
        (["--stream", "-", "--count", "9", "--sensor", "34x34"], b"0.1 3 40 1\n", "event 0 has y = 40, and the sensor"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_sentence(run, pipe, capsys, arguments, content, message):
    pipe(content)
    call("predict", run, *arguments, expect=2)
    said = capsys.readouterr()
    assert said.out == ""
    (line,) = said.err.splitlines()
    assert line.startswith("error: ")
    assert message in line


@pytest.mark.parametrize("bins", ["count", "time"])
def test_a_whole_recording_is_cut_as_those_of_the_test(run, tmp_path, capsys, bins):
    """By a reference of its own: four parts, two pixels to one, counts as they are."""
    settings = (run / "config.yaml").read_text()
    other = tmp_path / "run"
    shutil.copytree(run, other)
    assert "bins: count" in settings
    (other / "config.yaml").write_text(settings.replace("bins: count", f"bins: {bins}"))
    model = enliven(iso.from_pretrained(run))
    save_tensors(
        other / "checkpoints" / "last.safetensors", {f"model.{k}": v for k, v in model.state_dict().items()}, {}
    )
    events = [(t, x % 34, y % 34, p) for t, x, y, p in EVENTS]
    edges = np.linspace(0, len(events), 5).astype(int)
    if bins == "time":
        t = np.array([event[0] for event in events])
        edges = [0, *np.searchsorted(t, t[0] + np.arange(1, 4) * ((t[-1] - t[0]) // 4)), len(events)]
    frames = torch.zeros(4, 1, 2, 16, 16)
    for step, (start, end) in enumerate(pairwise(edges)):
        for _, x, y, p in events[start:end]:
            frames[step, 0, p, y * 16 // 34, x * 16 // 34] += 1
    expected = model(frames).softmax(-1)[0]
    assert not torch.allclose(model(frames[[1, 0, 2, 3]]).softmax(-1)[0], expected, atol=1e-3)
    (tmp_path / "a.bin").write_bytes(event_files.bits40(events))
    (tmp_path / "b.txt").write_bytes(event_files.text(reversed(events)))
    call("predict", other, tmp_path / "a.bin", tmp_path / "b.txt", "--json")
    answers = json.loads(capsys.readouterr().out)
    assert [answer["recording"] for answer in answers] == [str(tmp_path / "a.bin"), str(tmp_path / "b.txt")]
    found = {top["class"]: top["probability"] for top in answers[0]["predictions"]}
    assert torch.allclose(torch.tensor([found[name] for name in CLASSES]), expected, atol=1e-5)
    assert expected.max() - expected.min() > 0.01


@pytest.mark.parametrize(
    ("events", "options", "message"),
    [
        ([(0, 3, 4, 1)] * 3, [], r"a.bin: a recording of 3 events is too short for 4 bins"),
        ([(0, 60, 4, 1)] * 9, [], r"a.bin: event 0 has x = 60, and the sensor .* is named with --sensor WIDTHxHEIGHT"),
        ([(0, 3, 4, 1)] * 9, ["--sensor", "8x8"], r"a.bin: a sensor of 8x8 pixels is smaller than the frames"),
    ],
)
def test_a_recording_that_does_not_fit_is_named(run, tmp_path, capsys, events, options, message):
    (tmp_path / "a.bin").write_bytes(event_files.bits40(events))
    call("predict", run, tmp_path / "a.bin", *options, expect=2)
    assert re.search(message, capsys.readouterr().err)


@pytest.fixture
def live(run):
    """The command, at the end of a pipe that stays open."""
    command = [sys.executable, "-m", "isospike", "predict", str(run), "--stream", "-", "--count", "10"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    options = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "env": environment}
    with subprocess.Popen([*command, "--sensor", "128x128", "--json"], **options) as process:
        yield process
        process.kill()


def test_a_decision_comes_before_the_next_events_and_ctrl_c_ends_with_the_summary(live):
    for number in range(3):
        live.stdin.write(event_files.text(EVENTS[10 * number : 10 * number + 10]))
        live.stdin.flush()
        assert json.loads(live.stdout.readline())["window"] == number
    live.send_signal(signal.SIGINT)
    assert live.wait(20) == 130
    said = live.stderr.read().decode()
    assert "note: 3 windows of 10 events; a decision took" in said
    assert "Traceback" not in said


def test_a_reader_that_went_away_ends_it(live):
    live.stdin.write(event_files.text(EVENTS[:10]))
    live.stdin.flush()
    live.stdout.readline()
    live.stdout.close()
    for start in range(10, 300, 10):
        try:
            live.stdin.write(event_files.text(EVENTS[start : start + 10]))
            live.stdin.flush()
        except BrokenPipeError:
            break
    assert live.wait(20) == 1
    assert "Traceback" not in live.stderr.read().decode()

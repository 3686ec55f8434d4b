"""An exported program computes what the model computes, in every form, in a process that has no isospike."""

import subprocess
import sys

import pytest
import torch
from torch import nn
from torch._ops import OpOverload

import isospike as iso
from exported_nets import NEURON_LAYERS, clips, conv, images, layers, neuron
from isospike.errors import ConfigError, RunFailed, UnknownName
from isospike.export import save_package, save_program
from isospike.export.torch_program import FORMS
from isospike.layers import PerStepNorm, SpikingMaxPool

STATEFUL = ["levels", "readout", "takes back", "tells changes", "waits"]

ALONE = """
import sys
sys.modules["isospike"] = None
import torch
folder, size = sys.argv[1], 3
x, clip, *expected = torch.load(f"{folder}/data.pt")
static, per_clip, step = (torch.export.load(f"{folder}/{form}.pt2") for form in ("static", "clip", "step"))
logits, per_step = static.module()(x)
assert torch.equal(logits, expected[0]) and torch.equal(per_step, expected[1])
logits, per_step = per_clip.module()(clip)
assert torch.equal(logits, expected[2]) and torch.equal(per_step, expected[3])
(_, state), _ = step.example_inputs
state = {name: v.new_zeros(size, *v.shape[1:]) for name, v in state.items()}
for x_t, logits in zip(clip, expected[3]):
    found, state = step.module()(x_t, state)
    assert torch.equal(found, logits)
"""


def test_every_form_runs_without_isospike(tmp_path):
    """A batch of 3, where the example had 2."""
    model = layers(conv(), neuron("lif"), conv(), neuron("if"), join=True)
    x, clip = images(model, 3, 8), clips(model, 3, 8)
    for form in FORMS:
        save_program(model, tmp_path / f"{form}.pt2", form, size=8)
    torch.save(
        [x, clip, model(x), model(x, per_step=True), model(clip), model(clip, per_step=True)], tmp_path / "data.pt"
    )
    done = subprocess.run([sys.executable, "-c", ALONE, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


PACKAGED = """
import sys
sys.modules["isospike"] = None
import torch
folder, size = sys.argv[1], 3
x, clip, *expected = torch.load(f"{folder}/data.pt")
static, step = (torch._inductor.aoti_load_package(f"{folder}/{form}.pt2") for form in ("static", "step"))
logits, per_step = static(x)
assert torch.equal(logits, expected[0]) and torch.equal(per_step, expected[1])
state = {name: v.new_zeros(size, *v.shape[1:]) for name, v in torch.load(f"{folder}/rest.pt").items()}
for x_t, logits in zip(clip, expected[3]):
    found, state = step(x_t, state)
    assert torch.equal(found, logits)
"""


@pytest.mark.compiler
def test_compiled_packages_run_without_isospike(tmp_path):
    """An image and a stream, of a batch of 3, where the example had 2."""
    model = layers(conv(), neuron("lif"), conv(), neuron("if"), join=True)
    x, clip = images(model, 3, 8), clips(model, 3, 8)
    for form in ("static", "step"):
        save_package(model, tmp_path / f"{form}.pt2", form, size=8)
    assert {file.name for file in tmp_path.iterdir()} == {"static.pt2", "step.pt2"}
    torch.save(iso.export_program(model, "step", size=8).example_inputs[0][1], tmp_path / "rest.pt")
    torch.save(
        [x, clip, model(x), model(x, per_step=True), model(clip), model(clip, per_step=True)], tmp_path / "data.pt"
    )
    done = subprocess.run([sys.executable, "-c", PACKAGED, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_without_a_compiler_one_sentence_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(torch._inductor.config.cpp, "cxx", (None, "/nowhere/g++"))
    with pytest.raises(ConfigError, match=r"needs a C\+\+ compiler, and there is none: install g\+\+, name one"):
        save_package(layers(conv(), neuron("if")), tmp_path / "net.pt2", size=8)


def test_a_package_that_cannot_be_compiled_leaves_the_file_before(tmp_path, monkeypatch):
    def fails(*_, **__):
        raise RuntimeError("CppCompileError: no header\nmany more lines")

    path = tmp_path / "net.pt2"
    path.write_bytes(b"before")
    monkeypatch.setattr("isospike.export.torch_program._check_compiler", lambda: None)
    monkeypatch.setattr(torch._inductor, "aoti_compile_and_package", fails)
    with pytest.raises(RunFailed, match="AOTInductor cannot compile this network: CppCompileError: no header$"):
        save_package(layers(conv(), neuron("if")), path, size=8)
    assert [file.read_bytes() for file in tmp_path.iterdir()] == [b"before"]


def assert_streams(model, size):
    """One step of a stream by the program, carried on, is one of the model."""
    program = iso.export_program(model, "step", size=size)
    assert {node.target.namespace for node in program.graph.nodes if isinstance(node.target, OpOverload)} == {"aten"}
    run, clip = program.module(), clips(model, size=size)
    state, ours = dict(program.example_inputs[0][1]), None
    for x in clip:
        logits, state = run(x, state)
        expected, ours = model.step(x, ours)
        assert torch.equal(logits, expected)
    assert clip.std() > 0
    assert state.keys() == ours.keys()


@pytest.mark.parametrize("name", STATEFUL)
def test_every_kind_of_state_goes_in_and_out(name):
    model = NEURON_LAYERS[name]()
    if name == "readout":  # its classifier was made for 6x7 pixels
        program = iso.export_program(model, "step", size=(6, 7)).module()
        rest = {"spike": torch.zeros(2, 2, 6, 7), "readout": torch.full((2, 4), 0.5)}
        x = images(model)[..., :6, :7]
        assert torch.equal(program(x, rest)[0], model.step(x)[0])
    else:
        assert_streams(model, 8)


def test_norms_that_know_the_step_count_it():
    norms = PerStepNorm(3, 2)
    for number, norm in enumerate(norms):
        norm.bias.data.fill_(number)
    model = layers(conv(), norms, neuron("if"), conv())
    for number, norm in enumerate(norms):
        norm.bias.data.fill_(number / 4)
    assert_streams(model, 8)


def test_a_layer_of_ones_own_is_traced():
    class Twice(nn.Module):
        def forward(self, x):
            return 2 * x

    assert_streams(layers(conv(), Twice(), neuron("if"), SpikingMaxPool(2), conv()), 8)


def test_bad_input_is_one_sentence():
    model = layers(conv(), neuron("if"))
    with pytest.raises(UnknownName, match="form of an exported program 'stat'; nearest: static"):
        iso.export_program(model, "stat", size=8)
    with pytest.raises(ConfigError, match="give size="):
        iso.export_program(model)


def test_a_program_that_cannot_be_saved_leaves_the_file_before(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    path = tmp_path / "net.pt2"
    path.write_bytes(b"before")
    monkeypatch.setattr("isospike.export.torch_program.export_program", lambda *_, **__: None)
    monkeypatch.setattr(torch.export, "save", full)
    with pytest.raises(RunFailed, match="No space left on device; the one before is intact"):
        save_program(layers(conv()), path, size=8)
    assert [file.read_bytes() for file in tmp_path.iterdir()] == [b"before"]

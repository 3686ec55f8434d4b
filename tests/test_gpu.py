"""The Triton backend beyond what every backend is tested for: dtypes, sizes, refusals, and that a compiler takes it."""

import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import isospike as iso
from helpers import Step, assert_equals_reference, device_of, make_neuron
from isospike.errors import ConfigError
from isospike.ops import FireRule, IntegerRule, backend, gpu, leaky_fire, use_backend
from isospike.ops.gpu import leaky_fire as fire

pytestmark = pytest.mark.triton
DEVICE = device_of("triton")


@pytest.mark.parametrize("kind", ["plif", "mlf"])
def test_many_programs_the_last_one_not_full(monkeypatch, kind):
    monkeypatch.setattr(fire, "FORWARD_BLOCK", 64)
    monkeypatch.setattr(fire, "BACKWARD_BLOCK", 32)
    neuron = make_neuron(kind)
    assert_equals_reference("triton", neuron, torch.randn(3, 2, 75), torch.randn(neuron.rule.state_shape((2, 75))))


@pytest.mark.parametrize("kind", ["plif", "mlf"])
def test_more_steps_than_one_kernel_unrolls(monkeypatch, kind):
    monkeypatch.setattr(fire, "MAX_STATES", 6)
    neuron = make_neuron(kind)
    assert_equals_reference("triton", neuron, torch.randn(7, 2, 30), torch.randn(neuron.rule.state_shape((2, 30))))


@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float16, 1e-3), (torch.bfloat16, 1e-2)])
def test_half_precision_has_the_spikes_and_float32_potentials_of_the_reference(dtype, rtol):
    """Gradients in half precision may differ by the last bit of their dtype."""
    neuron = make_neuron("plif")
    assert_equals_reference("triton", neuron, torch.randn(4, 2, 40).to(dtype), None, rtol=rtol)
    with use_backend("triton"), torch.autocast(DEVICE, dtype):
        s, v = leaky_fire(torch.randn(4, 2, 40, device=DEVICE, dtype=dtype), decay=0.5, gain=1.0, rule=FireRule())
    assert (s.dtype, v.dtype) == (dtype, torch.float32)


@pytest.mark.parametrize("used", [0, 1])
def test_a_loss_on_the_spikes_or_on_the_potential_alone(used):
    x = torch.randn(3, 2, 9, device=DEVICE).requires_grad_()
    grads = []
    for name in ("triton", "reference"):
        with use_backend(name):
            outcome = leaky_fire(x, decay=0.5, gain=1.0, rule=FireRule())[used]
        grads.append(torch.autograd.grad(outcome.square().sum(), x)[0])
    assert grads[1].abs().sum() > 0
    torch.testing.assert_close(*grads, rtol=1e-5, atol=1e-6)


def test_an_empty_batch():
    with use_backend("triton"):
        s, v = leaky_fire(torch.empty(3, 0, 9, device=DEVICE), decay=0.5, gain=1.0, rule=FireRule())
    assert (s.shape, v.shape) == ((3, 0, 9), (0, 9))


HALF = torch.zeros(3, 4, device=DEVICE, dtype=torch.float16)
REFUSED = [
    (torch.float64, FireRule(), None, "it takes currents in float32, float16 and bfloat16, and this one is float64"),
    (torch.float32, FireRule(), HALF, "it keeps potentials in float32, and those given are float16"),
    (torch.float32, FireRule(surrogate=Step()), None, "it does not know the surrogate Step"),
    (torch.float32, FireRule(higher=tuple(range(2, 11))), None, "it has room for 8 levels, and"),
    (torch.float32, IntegerRule(levels=2**21), None, "it has room for 8 levels, and for integers up to 1048576"),
]


@pytest.mark.parametrize(("dtype", "rule", "v", "reason"), REFUSED)
def test_what_it_cannot_is_refused_by_name_and_done_by_auto(dtype, rule, v, reason):
    x = torch.randn(2, 3, 4, device=DEVICE, dtype=dtype)
    with use_backend("triton"), pytest.raises(ConfigError, match=f"backend 'triton' cannot run this: {reason}"):
        leaky_fire(x, v, decay=0.5, gain=1.0, rule=rule)
    leaky_fire(x, v, decay=0.5, gain=1.0, rule=rule)


def test_a_tensor_elsewhere_is_refused(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    reason = "in the memory of a CUDA device, and the current is on 'cpu'"
    with use_backend("triton"), pytest.raises(ConfigError, match=reason):
        leaky_fire(torch.randn(2, 3), decay=0.5, gain=1.0, rule=FireRule())
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert "under Triton's interpreter, and the current is on 'meta'" in fire.refusal(
        torch.empty(2, 3, device="meta"), None, FireRule()
    )


def test_a_missing_triton_is_said_and_a_broken_one_is_not_hidden(monkeypatch):
    monkeypatch.setitem(sys.modules, "triton", None)
    fire.installed.cache_clear()
    assert not fire.installed()
    assert "the package triton is missing" in fire.refusal(torch.randn(2, 3, device=DEVICE), None, FireRule())
    monkeypatch.undo()
    fire.installed.cache_clear()

    def break_down(name):
        raise ModuleNotFoundError(name="libcuda_something")

    monkeypatch.setattr(fire.importlib, "import_module", break_down)
    with pytest.raises(ModuleNotFoundError):
        fire.installed()
    monkeypatch.undo()
    assert fire.installed()


def test_auto_takes_it_on_a_gpu_alone():
    """The interpreter is for tests: on a CPU "auto" never takes it, even where the compiled library cannot."""
    assert backend.BACKENDS["triton"].device == "cuda"
    half = torch.randn(2, 3, 4).half()
    assert backend.pick(half, None, FireRule()).name == "reference"


def test_the_compiler_takes_every_kernel_and_fuses_nothing(tmp_path):
    """For a Hopper GPU that need not be there: from Triton to machine code, products and sums apart."""
    env = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"} | {"TRITON_CACHE_DIR": str(tmp_path)}
    env["PYTHONPATH"] = str(Path(iso.__file__).parents[1])
    script = Path(__file__).with_name("compile_kernels.py")
    done = subprocess.run([sys.executable, str(script)], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    counts = json.loads(done.stdout)
    files = Path(gpu.__file__).with_name("kernels").glob("*.py")
    assert set(counts) == {name for file in files for name in re.findall(r"def (\w+_kernel)\(", file.read_text())}
    assert not any(counts.values()), counts


def test_the_benchmark_gives_no_speed_up_of_kernels_that_are_not_right(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    speed_ups = importlib.import_module("gpu").speed_ups
    seconds = {"triton": 1.0, "reference": 4.0, "compiled": 1.2}
    results = {"kernels": {"rows": [{"work": "recurrence", "device_seconds": seconds}]}, "net triton": {"seconds": 1.0}}
    results["net graph"] = {"seconds": 0.5}
    for check in ({}, {"check": {"right": False}}, {"check": {"failed": "took more than 100 s"}}):
        assert "left out" in speed_ups(results | check)
    assert speed_ups(results | {"check": {"right": True}}) == {
        "recurrence": {"reference": 4.0, "compiled": 1.2, "stays": False},
        "net": {"graph": 0.5},
    }

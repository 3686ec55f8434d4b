"""Small builders that several test files share."""

import copy
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from isospike.layers import BatchNorm
from isospike.neurons import NEURONS, Neuron, SpikingNeuron
from isospike.ops import FireRule, use_backend
from isospike.ops.gpu import leaky_fire as gpu_leaky_fire
from isospike.ops.gpu import norm_fire as gpu_norm_fire
from isospike.registry import build
from isospike.surrogates import Surrogate

# Arguments of a training run of seconds.
TINY = [
    "--recipe", "digits_ms_resnet20", "--set", "model.name=ms_resnet8", "--set", "model.T=2", "--set", "data.size=8",
    "--set", "train.epochs=2", "--set", "train.tensorboard=false",
]  # fmt: skip

# Options that every neuron of the registry can be built with, so that a new one is tested without a new list.
REQUIRED = {"lif": {"decay": 0.25}}


def make_neuron(kind: str, **rule) -> Neuron:
    return build(NEURONS, {"kind": kind, **REQUIRED.get(kind, {}), **rule})


SPIKING = [kind for kind in NEURONS if isinstance(make_neuron(kind), SpikingNeuron)]
STEPPING = [kind for kind in SPIKING if isinstance(make_neuron(kind).rule, FireRule)]


def dyadic(*shape: int, low: float = -1.0, high: float = 2.0, dtype=torch.float32) -> Tensor:
    """Multiples of 1/64: with decays such as 1/4 every product and sum of a few steps is exact."""
    return (torch.randint(int(low * 64), int(high * 64) + 1, shape) / 64).to(dtype)


def enliven(model: nn.Module) -> nn.Module:
    """Give every norm the statistics and weights of a trained one, so that all neurons have something to do."""
    for module in model.modules():
        if isinstance(module, BatchNorm):
            with torch.no_grad():
                module.weight.uniform_(0.4, 1.2)
                module.bias.uniform_(-0.1, 0.4)
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.05, 0.2)
    return model


def device_of(name):
    """Where the backend runs here."""
    return "cuda" if name == "triton" and torch.cuda.is_available() else "cpu"


def in_few_programs(monkeypatch):
    """In Triton's interpreter a program takes its time, whatever its size; on a GPU tiles stay as users have them."""
    if not torch.cuda.is_available():
        monkeypatch.setattr(gpu_leaky_fire, "FORWARD_BLOCK", 2**14)
        monkeypatch.setattr(gpu_leaky_fire, "BACKWARD_BLOCK", 2**14)
        monkeypatch.setattr(gpu_norm_fire, "TILE", 2**14)


def run_backend(name, device, neuron, x, v, grads):
    """Spikes, potentials, and the gradients of current, first potential and parameters."""
    x = x.to(device).clone(memory_format=torch.preserve_format).requires_grad_()
    v = None if v is None else v.to(device).clone().requires_grad_()
    neuron = copy.deepcopy(neuron).to(device)
    inputs = [x, *([] if v is None else [v]), *neuron.parameters()]
    with use_backend(name):
        s, end = neuron(x, v)
        return s, end, torch.autograd.grad([s, end], inputs, [g.to(device) for g in grads])


def assert_equals_reference(name, neuron, x, v, rtol=1e-5, atol=1e-6):
    grads = [torch.randn_like(x), torch.randn(neuron.rule.state_shape(x.shape[1:]))]
    s, end, d = run_backend(name, device_of(name), neuron, x, v, grads)
    s_true, end_true, d_true = run_backend("reference", device_of(name), neuron, x, v, grads)
    assert torch.equal(s, s_true)
    assert torch.equal(end, end_true)
    rounding = torch.finfo(torch.float32).eps * x.numel() ** 0.5  # of a sum over all neurons, in any order
    for ours, theirs in zip(d, d_true, strict=True):
        assert ours.dtype == theirs.dtype
        torch.testing.assert_close(ours, theirs, rtol=rtol, atol=atol if ours.dim() else atol + rounding)


class Step(Surrogate):
    """One that no compiled code knows."""

    def primitive(self, u):
        return u

    def derivative(self, u):
        return torch.ones_like(u)


@contextmanager
def locked_elsewhere(folder: Path) -> Iterator[None]:
    """Another process holds the lock on a folder."""
    code = (
        "import fcntl, sys\n"
        "file = open(sys.argv[1], 'w')\n"
        "fcntl.lockf(file, fcntl.LOCK_EX)\n"
        "print('locked', flush=True)\n"
        "sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", code, str(folder / ".lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        other.stdout.readline()
        yield
        other.communicate()

"""Networks and neurons of SpikingJelly 2.0.0, made of its own multi-step layers."""

import os
import sys
from copy import deepcopy
from types import ModuleType
from typing import Any

import torch
from nets import Ann, Net, Segment, convolution, max_pool, mean_pool
from serve import Converted, Fire, Frames, Job, Network, Task, Tensors, dtype_of, serve
from torch import Tensor, nn

BATCH = 128  # images of the calibration at a time


def neuron_of(spec: dict[str, Any]) -> nn.Module:
    """Make a multi-step neuron that computes what ``spec`` says; it fires at its threshold."""
    from spikingjelly.activation_based import neuron, surrogate

    value = spec["surrogate_parameter"]
    surrogates = {
        "rectangle": lambda: surrogate.Rect(alpha=1 / value),
        "arctan": lambda: surrogate.ATan(alpha=value),
        "sigmoid": lambda: surrogate.Sigmoid(alpha=value),
        "triangle": lambda: surrogate.PiecewiseQuadratic(alpha=1 / value),
    }
    options = {
        "v_threshold": spec["v_threshold"],
        "v_reset": None if spec["reset"] == "subtract" else spec["v_reset"],
        "surrogate_function": surrogates[spec["surrogate"]](),
        "detach_reset": spec["detach_reset"],
        "step_mode": "m",
    }
    decay, gain = spec["decay"], spec["gain"]
    if decay == 1 and gain == 1:
        return neuron.IFNode(**options)
    if spec["v_reset"] != 0 or gain not in (1, 1 - decay):
        raise ValueError("SpikingJelly's LIFNode leaks to its reset, and takes the current whole or by 1/tau")
    return neuron.LIFNode(tau=1 / (1 - decay), decay_input=gain != 1, **options)


def network(job: Job, tensors: Tensors) -> Task:
    """Make the described network, with what the setting asks for."""
    from spikingjelly.activation_based import functional, layer, memopt

    setting = job["setting"]
    makers = {
        "conv": lambda spec: convolution(lambda *a, **k: layer.Conv2d(*a, **k, step_mode="m"), spec),
        "norm": lambda spec: layer.BatchNorm2d(spec["channels"], eps=spec["eps"], step_mode="m"),
        "pool": lambda spec: mean_pool(lambda *a, **k: layer.AvgPool2d(*a, **k, step_mode="m"), spec),
        "max_pool": lambda spec: max_pool(lambda *a, **k: layer.MaxPool2d(*a, **k, step_mode="m"), spec),
        "linear": lambda spec: layer.Linear(spec["in"], spec["out"], bias=spec["bias"], step_mode="m"),
        "spike": lambda spec: neuron_of(spec["neuron"]),
    }
    net = Net(job["net"], makers, job["T"])
    net = net.to(job["device"], dtype_of(job))
    net.load(tensors)
    if setting.get("channels_last"):
        net = net.to(memory_format=torch.channels_last)
    if setting.get("memory"):
        example = tensors["x"].to(job["device"], dtype_of(job))

        def forward_once(current: nn.Module) -> Tensor:
            functional.reset_net(current)
            return current(example)

        memopt.optimize_memory(net, Segment, forward_once, level=1)
    called = torch.compile(net) if setting.get("compile") else net

    def forward(x: Tensor) -> Tensor:
        functional.reset_net(net)
        return called(x)

    return Network(job, net, forward, net.layers, tensors)


def fire(job: Job, tensors: Tensors) -> Task:
    """Make the neuron alone."""
    from spikingjelly.activation_based import functional

    node = neuron_of(job["neuron"]).to(job["device"])
    called = torch.compile(node) if job["setting"].get("compile") else node

    def forward(x: Tensor) -> Tensor:
        functional.reset_net(node)
        return called(x)

    return Fire(job, forward, tensors, job["setting"].get("channels_last", False))


def frames(job: Job, tensors: Tensors) -> Task:
    """Cut frames as its data sets do, T parts with as many events."""
    count = its_datasets().integrate_events_by_fixed_frames_number
    events = {name: tensors[name].numpy() for name in ("t", "x", "y", "p")}
    return Frames(lambda: count(events, "number", job["T"], job["size"], job["size"]))


def converted(job: Job, tensors: Tensors) -> Task:
    """Convert as its documentation does: thresholds of every channel at 99.9 %, and half of them to start from."""
    from spikingjelly.activation_based import ann2snn, functional

    ann = Ann(job["net"])
    ann.load(tensors)
    layout = torch.channels_last if job["setting"].get("channels_last") else torch.contiguous_format
    ann = ann.to(memory_format=layout).eval()

    @torch.no_grad()
    def convert(x: Tensor) -> nn.Module:
        batches = list(x.contiguous(memory_format=layout).split(BATCH))
        recipe = ann2snn.RateCodingRecipe(dataloader=batches, mode="99.9%", channel_wise=True, half_threshold=True)
        return ann2snn.FXConverter(recipe=recipe).convert(deepcopy(ann)).eval()

    @torch.no_grad()
    def simulate(net: nn.Module, x: Tensor, T: int) -> Tensor:
        functional.reset_net(net)
        x, total = x.contiguous(memory_format=layout), torch.zeros(())
        for _ in range(T):
            total = total + net(x)
        return total

    return Converted(job, convert, simulate, tensors)


def its_datasets() -> ModuleType:
    """Import its functions of events alone.

    Its package of data sets imports torchvision and matplotlib for other things, which need not be there.
    """
    import spikingjelly

    package = ModuleType("spikingjelly.datasets")
    package.__path__ = [os.path.join(spikingjelly.__path__[0], "datasets")]
    sys.modules[package.__name__] = package
    for name, part in {"torchvision": "transforms", "matplotlib": "pyplot"}.items():
        sys.modules[name] = ModuleType(name)
        setattr(sys.modules[name], part, None)
    from spikingjelly.datasets import utils

    return utils


def build(job: Job, tensors: Tensors) -> Task:
    """Build a task of this library, which reads its CUDA implementation from the environment at import."""
    implementation = job["setting"].get("implementation")
    if implementation:
        for kind in ("IF", "LIF"):
            os.environ[f"SJ_{kind}_CUDA_IMPLEMENTATION"] = implementation
    works = {"fire": fire, "fire_train": fire, "frames": frames, "convert": converted, "simulate": converted}
    return works.get(job["work"], network)(job, tensors)


if __name__ == "__main__":
    from importlib.metadata import version

    serve(build, {"spikingjelly": version("spikingjelly")})

"""Networks and neurons of snnTorch 1.0.0: its ``Leaky`` in a loop over time, other layers on all steps at once."""

from typing import Any

import torch
from nets import Net, convolution, max_pool, mean_pool
from serve import Fire, Job, Network, Task, Tensors, dtype_of, serve
from torch import Tensor, nn


class Folded(nn.Module):
    """A layer that knows no time, on ``[T, B, ...]`` as one batch: batch statistics are those of all steps."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        """Run every step."""
        return self.layer(x.flatten(0, 1)).unflatten(0, x.shape[:2])


class Looped(nn.Module):
    """``Leaky`` from rest, step by step."""

    def __init__(self, leaky: nn.Module) -> None:
        super().__init__()
        self.leaky = leaky

    def forward(self, x: Tensor) -> Tensor:
        """Return spikes of all steps."""
        potential, spikes = torch.zeros_like(x[0]), []
        for x_t in x:
            spike, potential = self.leaky(x_t, potential)
            spikes.append(spike)
        return torch.stack(spikes).to(x.dtype)  # a surrogate of one's own spikes in float32, whatever it is given


def neuron_of(spec: dict[str, Any]) -> nn.Module:
    """Make a neuron that computes what ``spec`` says; it fires above its threshold."""
    import snntorch
    from snntorch import surrogate

    if spec["gain"] != 1 or spec["v_reset"] != 0:
        raise ValueError("snnTorch's Leaky takes its current whole and resets to 0")
    if spec["reset"] != "to_value":
        raise ValueError("snnTorch's Leaky subtracts its threshold after the leak, not before it")
    value = spec["surrogate_parameter"]

    def rectangle(u: Tensor, grad: Tensor, spikes: Tensor) -> Tensor:
        return grad * (u.abs() < value / 2).to(u.dtype) / value

    surrogates = {
        "rectangle": lambda: surrogate.custom_surrogate(rectangle),
        "arctan": lambda: surrogate.atan(alpha=value),
        "sigmoid": lambda: surrogate.sigmoid(slope=value),
    }
    leaky = snntorch.Leaky(
        beta=spec["decay"],
        threshold=spec["v_threshold"],
        spike_grad=surrogates[spec["surrogate"]](),
        reset_mechanism="zero",
        # "Delayed" is the detached reset, made at the start of the next step; the other one lets the gradient through.
        reset_delay=spec["detach_reset"],
    )
    return Looped(leaky)


def network(job: Job, tensors: Tensors) -> Task:
    """Make the described network."""
    makers = {
        "conv": lambda spec: Folded(convolution(nn.Conv2d, spec)),
        "norm": lambda spec: Folded(nn.BatchNorm2d(spec["channels"], eps=spec["eps"])),
        "pool": lambda spec: Folded(mean_pool(nn.AvgPool2d, spec)),
        "max_pool": lambda spec: Folded(max_pool(nn.MaxPool2d, spec)),
        "linear": lambda spec: Folded(nn.Linear(spec["in"], spec["out"], bias=spec["bias"])),
        "spike": lambda spec: neuron_of(spec["neuron"]),
    }
    net = Net(job["net"], makers, job["T"])
    net.layers = {name: m.layer if isinstance(m, Folded) else nn.Identity() for name, m in net.layers.items()}
    net = net.to(job["device"], dtype_of(job))
    net.load(tensors)
    if job["setting"].get("channels_last"):
        net = net.to(memory_format=torch.channels_last)
    called = torch.compile(net) if job["setting"].get("compile") else net
    return Network(job, net, called, net.layers, tensors)


def fire(job: Job, tensors: Tensors) -> Task:
    """Make the neuron alone."""
    looped = neuron_of(job["neuron"]).to(job["device"])
    called = torch.compile(looped) if job["setting"].get("compile") else looped
    return Fire(job, called, tensors, job["setting"].get("channels_last", False))


def build(job: Job, tensors: Tensors) -> Task:
    """Build a task of this library."""
    return fire(job, tensors) if job["work"].startswith("fire") else network(job, tensors)


if __name__ == "__main__":
    from importlib.metadata import version

    serve(build, {"snntorch": version("snntorch")})

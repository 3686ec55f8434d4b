"""The contestants of this package: its networks and neurons, and the floors that they are held against.

Run as ``python -m isospike.bench.ours [ROWS.py ...]``, with rows of one's own to import; it answers as
``peers/serve.py`` says. A setting names its ``contestant``.
"""

import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import isospike
from isospike.bench.peers.serve import Converted, Fire, Frames, Job, Network, Task, Tensors, dtype_of, serve
from isospike.conversion.evaluation import logit_sums
from isospike.events import Events, bins_of_count, integrate
from isospike.layers import BatchNorm
from isospike.models import ProgramNet, SpikingResNet, create_model
from isospike.neurons import LIF
from isospike.own_rows import import_installed, import_rows
from isospike.surrogates import SURROGATES

BATCH = 128  # images of the calibration at a time


class Ours(Network):
    """A network of ours; gradients are given for weights that hold their norm's constant factor."""

    def outputs(self) -> Tensors:
        """Return outputs as any network does."""
        found = super().outputs()
        for name, layer in self.layers.items():
            if isinstance(layer, BatchNorm) and f"grad {name}.weight" in found:
                found[f"grad {name}.weight"] = found[f"grad {name}.weight"] / layer.scale
        return found


class Floor:
    """Work of which only the time matters."""

    def __init__(self, run: Callable[[], object]) -> None:
        self.run = run

    def outputs(self) -> Tensors:
        """Return nothing: only its time matters."""
        return {}


def load_model(job: Job, tensors: Tensors) -> SpikingResNet:
    """Load the model of a job with its weights."""
    model = create_model(job["model"], T=job["T"], **job["options"])
    weights = {name: value for name, value in tensors.items() if name not in ("x", "y")}
    for name, module in model.named_modules():
        if isinstance(module, BatchNorm):
            weights[f"{name}.weight"] = weights[f"{name}.weight"] / module.scale
    model.load_state_dict(weights)
    return model.to(job["device"], dtype_of(job))


def network(job: Job, tensors: Tensors) -> Task:
    """Make the network as its users have it."""
    model = load_model(job, tensors)
    model.memory = job["setting"].get("memory", model.memory)
    layers = {name: m for name, m in model.named_modules() if not isinstance(m, SpikingResNet)}
    precision = job["setting"].get("inference")
    forward = model.eval().compile_for_inference(precision) if precision else model
    return Ours(job, model, forward, layers, tensors)


def convolutions(job: Job, tensors: Tensors) -> Task:
    """Make the convolutions of the network alone, on random spikes: the stem once, all others T times."""
    model = load_model(job, tensors).train()
    calls: list[tuple[nn.Conv2d, Tensor, Tensor]] = []

    def note(conv: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        assert isinstance(conv, nn.Conv2d)
        x = (torch.rand_like(args[0]) < 0.2).to(args[0].dtype).contiguous(memory_format=torch.channels_last)
        calls.append((conv, x, torch.randn_like(output, memory_format=torch.channels_last)))

    hooks = [m.register_forward_hook(note) for m in model.modules() if isinstance(m, nn.Conv2d)]
    with torch.no_grad():
        model(tensors["x"].to(job["device"], dtype_of(job)))
    for hook in hooks:
        hook.remove()
    for number, (_, x, _) in enumerate(calls):
        x.requires_grad_(job["work"] == "train" and number > 0)  # no gradient for the image
    bf16 = torch.autocast(torch.device(job["device"]).type, torch.bfloat16, enabled=job["precision"] == "bf16")

    def train() -> None:
        for conv, x, dy in calls:
            with bf16:
                y = conv(x)
            y.backward(dy.to(y.dtype))
            x.grad = conv.weight.grad = None

    def infer() -> None:
        with torch.no_grad(), bf16:
            for conv, x, _ in calls:
                conv(x)

    return Floor(train if job["work"] == "train" else infer)


def fire(job: Job, tensors: Tensors) -> Task:
    """Make the neuron of a job, on channels-last currents."""
    spec = job["neuron"]
    surrogate = SURROGATES[spec["surrogate"]](spec["surrogate_parameter"])  # type: ignore[call-arg]
    options: dict[str, Any] = {key: spec[key] for key in ("decay", "v_threshold", "reset", "v_reset", "detach_reset")}
    neuron = LIF(surrogate=surrogate, **options)
    return Fire(job, lambda x: neuron(x)[0], tensors, channels_last=True)


def frames(job: Job, tensors: Tensors) -> Task:
    """Cut a recording into T parts with as many events."""
    t, x, y, p = (tensors[name].numpy() for name in ("t", "x", "y", "p"))
    events = Events(t, x, y, p, (job["size"], job["size"]))
    return Frames(lambda: integrate(events, bins_of_count(events, job["T"])))


def converted(job: Job, tensors: Tensors) -> Task:
    """Convert with thresholds of every channel at 99.9 %, and simulate compiled."""
    ann = load_model({**job, "T": 1}, tensors).eval()

    def convert(x: Tensor) -> ProgramNet:
        return isospike.convert(ann, x.split(BATCH), method="percentile", T=job["T"], per_channel=True)

    def simulate(net: ProgramNet, x: Tensor, T: int) -> Tensor:
        return logit_sums(net, x, T)[-1]

    return Converted(job, convert, simulate, tensors)


def ann(job: Job, tensors: Tensors) -> Task:
    """Run the ANN once, in PyTorch, on all images of a case of conversion."""
    model, x = load_model({**job, "T": 1}, tensors).eval(), tensors["x"]

    def run() -> None:
        with torch.no_grad():
            for part in x.split(BATCH):
                model(part)

    return Floor(run)


def copies(job: Job, tensors: Tensors) -> Task:
    """Make the traffic of the neurons: read and write once; for the backward pass read twice and write once."""
    if job["work"] == "frames":
        return _copies_of_events(job, tensors)
    x, g = tensors["x"].to(job["device"]), tensors["g"].to(job["device"])
    y, z = torch.empty_like(x), torch.empty_like(x)

    def run() -> None:
        y.copy_(x)
        if job["work"] == "fire_train":
            torch.add(x, g, out=z)

    return Floor(run)


def _copies_of_events(job: Job, tensors: Tensors) -> Task:
    """Copy where the events are, 5 bytes of each, and write zeros where their frames are."""
    where = torch.zeros(5 * len(tensors["t"]), dtype=torch.uint8)
    out = torch.empty(job["T"], 2, job["size"], job["size"], dtype=torch.int32)

    def run() -> None:
        where.clone()
        out.zero_()

    return Floor(run)


CONTESTANTS: dict[str, Callable[[Job, Tensors], Task]] = {
    "network": network,
    "convolutions": convolutions,
    "fire": fire,
    "frames": frames,
    "convert": converted,
    "simulate": converted,
    "ann": ann,
    "copies": copies,
}


def build(job: Job, tensors: Tensors) -> Task:
    """Build the contestant that the setting names."""
    return CONTESTANTS[job["setting"]["contestant"]](job, tensors)


if __name__ == "__main__":
    import_installed()
    import_rows(sys.argv[1:])
    serve(build, {"isospike": isospike.__version__})

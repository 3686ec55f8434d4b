"""The contestant's side of a bench: requests come as lines of JSON on standard input, each is answered with one line.

A script of its own: it needs PyTorch and nothing else, and runs in whatever environment its interpreter has.

    {"do": "prepare", "job": {...}}        -> {"versions": {...}}
    {"do": "run", "seconds": least}        -> {"seconds": median of one or more runs of the work}
    {"do": "memory"}                       -> {"peak_mb": above what was held before the work was built}
    {"do": "outputs", "file": path}        -> {} ; the tensors by name, written by torch.save
"""

import gc
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Job = dict[str, Any]
Tensors = dict[str, Tensor]


class Task(Protocol):
    """Work that can be repeated."""

    def run(self) -> object:
        """Do the work once."""

    def outputs(self) -> Tensors:
        """Do it once more, and give what it computed."""


class Network:
    """Training steps, or inference, of one network.

    Args:
        job: ``work`` is "train" or "infer"; ``precision`` is "float32", "float64" or "bf16".
        model: Already on its device, in its memory format and with its weights.
        forward: Images ``[B, C, H, W]`` to logits ``[B, K]``, from rest.
        layers: Modules by the names that all contestants share.
        tensors: ``x`` and the labels ``y``.
    """

    def __init__(
        self,
        job: Job,
        model: nn.Module,
        forward: Callable[[Tensor], Tensor],
        layers: Mapping[str, nn.Module],
        tensors: Tensors,
    ) -> None:
        self.model, self.forward, self.layers = model, forward, layers
        self.training = job["work"] == "train"
        self.bf16, self.device = job["precision"] == "bf16", torch.device(job["device"])
        x = tensors["x"].to(self.device, dtype_of(job))
        channels_last = job["setting"].get("channels_last", False)
        self.x = x.contiguous(memory_format=torch.channels_last) if channels_last else x
        self.y = tensors["y"].to(self.device)
        model.train(self.training)

    def run(self) -> Tensors:
        """Run one step without the optimiser, or one batch of logits."""
        if not self.training:
            with torch.no_grad(), self._autocast():
                return {"logits": self.forward(self.x)}
        self.model.zero_grad(set_to_none=True)
        with self._autocast():
            logits = self.forward(self.x)
            loss = F.cross_entropy(logits, self.y)
        loss.backward()
        return {"logits": logits.detach(), "loss": loss.detach()}

    def outputs(self) -> Tensors:
        """Return logits; in training the loss, and the gradient of every weight, too."""
        found = self.run()
        if self.training:
            for name, layer in self.layers.items():
                for parameter, value in layer.named_parameters(recurse=False):
                    if value.grad is not None:
                        found[f"grad {name}.{parameter}"] = value.grad
        return found

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)


class Fire:
    """Neurons alone on ``x [T, B, C, H, W]``, with or without the backward pass of the gradient ``g``."""

    def __init__(self, job: Job, forward: Callable[[Tensor], Tensor], tensors: Tensors, channels_last: bool) -> None:
        def place(x: Tensor) -> Tensor:
            x = x.to(job["device"], dtype_of(job))
            if not channels_last:
                return x
            return x.flatten(0, 1).contiguous(memory_format=torch.channels_last).unflatten(0, x.shape[:2])

        self.forward, self.backward = forward, job["work"] == "fire_train"
        self.x, self.g = place(tensors["x"]).requires_grad_(self.backward), place(tensors["g"])

    def run(self) -> Tensors:
        """Return spikes, and the gradient of the current."""
        if not self.backward:
            with torch.no_grad():
                return {"spikes": self.forward(self.x)}
        spikes = self.forward(self.x)
        (dx,) = torch.autograd.grad(spikes, self.x, self.g)
        return {"spikes": spikes.detach(), "dx": dx}

    def outputs(self) -> Tensors:
        """Return the same."""
        return self.run()


class Frames:
    """A recording of events cut into frames.

    Args:
        count: Gives frames ``[T, 2, H, W]``, an array of numpy.
    """

    def __init__(self, count: Callable[[], Any]) -> None:
        self.run = count

    def outputs(self) -> Tensors:
        """Return the frames."""
        return {"frames": torch.as_tensor(self.run())}


class Converted:
    """An ANN that is converted, or simulated once it is.

    Args:
        job: ``work`` is "convert" or "simulate"; T steps.
        convert: From calibration images ``[N, C, H, W]`` to a network.
        simulate: From such a network, images and T to the logits ``[B, K]`` of all steps, added up or their mean.
        tensors: The images ``x``: those of the calibration, of which some are looked at.
    """

    LOOKED_AT = 32

    def __init__(
        self,
        job: Job,
        convert: Callable[[Tensor], Any],
        simulate: Callable[[Any, Tensor, int], Tensor],
        tensors: Tensors,
    ) -> None:
        self.x, self.T = tensors["x"].to(dtype_of(job)), job["T"]
        self.convert, self.simulate = convert, simulate
        self.net = None if job["work"] == "convert" else convert(self.x)

    def run(self) -> object:
        """Convert, or simulate all images."""
        return self.convert(self.x) if self.net is None else self.simulate(self.net, self.x, self.T)

    def outputs(self) -> Tensors:
        """Return logits of the converted network."""
        net = self.convert(self.x) if self.net is None else self.net
        return {"logits": self.simulate(net, self.x[: self.LOOKED_AT], self.T)}


def dtype_of(job: Job) -> torch.dtype:
    """Return the dtype of weights and images; bf16 is autocast, over float32."""
    return torch.float64 if job["precision"] == "float64" else torch.float32


def serve(build: Callable[[Job, Tensors], Task], versions: Mapping[str, str]) -> None:
    """Answer requests until standard input ends."""
    answers, sys.stdout = sys.stdout, sys.stderr  # what a library prints must not be taken for an answer
    session = Session(build, versions)
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = session.answer(request)
        except Exception as error:  # noqa: BLE001  # whatever went wrong is for the other side to say
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)  # noqa: T201


class Session:
    """What a contestant has prepared, and its answers.

    Args:
        build: Makes the work of a job.
        versions: Of the libraries that do it.
    """

    def __init__(self, build: Callable[[Job, Tensors], Task], versions: Mapping[str, str]) -> None:
        self.build, self.versions = build, dict(versions)
        self.task: Task | None = None

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Answer one request."""
        what = request["do"]
        if what == "prepare":
            self._prepare(request["job"])
            return {"versions": {**self.versions, "torch": torch.__version__, "python": platform.python_version()}}
        assert self.task is not None, "prepare comes first"
        if what == "run":
            return {"seconds": self._time(self.task, request["seconds"])}
        if what == "memory":
            return {"peak_mb": _peak_mb(self.device) - self.before}
        if what == "outputs":
            found = self.task.outputs()
            torch.save({name: value.cpu().contiguous() for name, value in found.items()}, request["file"])
            return {}
        raise ValueError(f"unknown request '{what}'")

    def _prepare(self, job: Job) -> None:
        torch.manual_seed(0)
        self.device = torch.device(job["device"])
        tensors = torch.load(job["tensors"], weights_only=True)
        _warm_up(self.device)
        self.before = _start_peak(self.device)
        self.task = self.build(job, tensors)

    def _time(self, task: Task, least: float) -> float:
        """Run at least once, until ``least`` seconds are full, and return the median seconds."""
        found: list[float] = []
        while sum(found) < least or not found:
            self._wait()
            began = time.perf_counter()
            task.run()
            self._wait()
            found.append(time.perf_counter() - began)
        return statistics.median(found)

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def _warm_up(device: torch.device) -> None:
    """Load what PyTorch loads for its first training step, 30 MB on a CPU, so that no network is charged with it."""
    layers = [nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 1, stride=2)]
    net = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2)).to(device)
    x = torch.zeros(2, 3, 8, 8, device=device)
    for images in (x, x.contiguous(memory_format=torch.channels_last)):
        F.cross_entropy(net(images), torch.arange(2, device=device)).backward()
    del net, x, images
    gc.collect()


def _start_peak(device: torch.device) -> float:
    """Count the peak anew from here, and return the megabytes held now."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device) / 1e6
    Path("/proc/self/clear_refs").write_text("5")
    return _status_mb("VmRSS")


def _peak_mb(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    return _status_mb("VmHWM")


def _status_mb(field: str) -> float:
    """Return a line of the kernel's account of this process, in megabytes."""
    status = Path("/proc/self/status").read_text()
    return int(status.split(f"{field}:")[1].split()[0]) * 1024 / 1e6

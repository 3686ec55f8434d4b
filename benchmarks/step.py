"""The recurrence, and training step and inference of two MS-ResNets, by backend and against their convolutions alone.

    python benchmarks/step.py

Times are of one process with all cores; backends and convolutions (same shapes, channels-last) run in turn in the
same run. Peak memory is measured in fresh processes, above what they held before the model was built.
"""

import argparse
import json
import subprocess
import sys

import torch
import torch.nn.functional as F

import isospike as iso
from common import header, interleaved, save
from isospike.malloc import keep_freed_memory
from isospike.memory import peak_memory_mb

CPU = torch.device("cpu")
T, BATCH, SIZE = 4, 32, 32
BACKENDS = ("cpu", "reference")
MODELS = {"ms_resnet20": {}, "ms_resnet18": {"stem": "cifar", "num_classes": 10}}


def recurrence(backend):
    """Closures for forward and backward, and forward alone without gradient, of LIF neurons on a large tensor."""
    neuron = iso.LIF(decay=0.25, v_threshold=0.5, surrogate="rectangle", strict=True, detach_reset=True)
    x = torch.randn(T * BATCH, 64, SIZE, SIZE).contiguous(memory_format=torch.channels_last).unflatten(0, (T, BATCH))
    x.requires_grad_()
    g = torch.randn_like(x)

    def both():
        with iso.use_backend(backend):
            s, _ = neuron(x)
        torch.autograd.grad(s, x, g)

    def forward():
        with iso.use_backend(backend), torch.no_grad():
            neuron(x)

    return both, forward


def copy():
    """One pass over the same memory, reading and writing."""
    x = torch.randn(T, BATCH, 64, SIZE, SIZE)
    y = torch.empty_like(x)
    return lambda: y.copy_(x)


def network(name, backend="auto"):
    """Closures for one training step and one inference of a model."""
    model = iso.create_model(name, T=T, **MODELS[name])
    x, y = torch.randn(BATCH, 3, SIZE, SIZE), torch.randint(0, 10, (BATCH,))

    def train():
        model.train()
        with iso.use_backend(backend):
            F.cross_entropy(model(x), y).backward()
        model.zero_grad()

    def infer():
        model.eval()
        with iso.use_backend(backend), torch.no_grad():
            model(x)

    return train, infer


def convolutions(name):
    """Closures for the same convolutions, on random spikes: the stem once, all others T times."""
    model = iso.create_model(name, T=T, **MODELS[name])
    calls = []

    def note(conv, args, output):
        x = (torch.rand_like(args[0]) < 0.2).float().contiguous(memory_format=torch.channels_last)
        calls.append((conv, x, torch.randn_like(output, memory_format=torch.channels_last)))

    hooks = [m.register_forward_hook(note) for m in model.modules() if isinstance(m, torch.nn.Conv2d)]
    model(torch.randn(BATCH, 3, SIZE, SIZE))
    for hook in hooks:
        hook.remove()

    def train():
        for number, (conv, x, dy) in enumerate(calls):
            x.requires_grad_(number > 0)  # no gradient for the image
            conv(x).backward(dy)
            x.grad = None

    def infer():
        with torch.no_grad():
            for conv, x, _ in calls:
                conv(x)

    return train, infer


def peak_memory(name, work, backend):
    """Megabytes above the process before the model is built, in a fresh process."""
    command = [sys.executable, __file__, "--memory", name, work, backend]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def measure_memory(name, work, backend):
    """Runs in the fresh process."""
    F.conv2d(torch.randn(1, 3, 8, 8), torch.randn(3, 3, 3, 3))  # load what a convolution loads
    before = peak_memory_mb(CPU)
    train, infer = network(name, backend)
    for _ in range(4):
        train() if work == "train" else infer()
    print(json.dumps(peak_memory_mb(CPU) - before))


def measure_recurrence(repeats):
    """By backend, beside one copy of the tensor."""
    by_backend = {backend: recurrence(backend) for backend in BACKENDS}
    rows = []
    for number, work in enumerate(("forward and backward", "forward")):
        works = {backend: closures[number] for backend, closures in by_backend.items()} | {"copy": copy()}
        times = interleaved(works, repeats)
        rows.append({"work": work, "seconds": times})
        print(work, {name: f"{t['median'] * 1e3:.1f} ms" for name, t in times.items()})
    return rows


def measure_network(name, repeats):
    """Training step and inference, by backend and beside the convolutions."""
    by_backend, floor = {backend: network(name, backend) for backend in BACKENDS}, convolutions(name)
    for number, work in enumerate(("train", "infer")):
        works = {backend: closures[number] for backend, closures in by_backend.items()}
        times = interleaved(works | {"convolutions": floor[number]}, repeats)
        alone = times["convolutions"]["median"]
        row = {"model": name, "work": work, "seconds": times, "peak_memory_mb": {}}
        row["ratio_to_convolutions"] = {backend: times[backend]["median"] / alone for backend in BACKENDS}
        for backend in BACKENDS:
            memory = row["peak_memory_mb"][backend] = peak_memory(name, work, backend)
            seconds = times[backend]["median"]
            print(
                f"{name} {work}, {backend}: {BATCH / seconds:,.0f} images/s, {seconds * 1e3:,.0f} ms, "
                f"{seconds / alone:.2f}x its convolutions, {memory:,.0f} MB"
            )
        yield row


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--memory", nargs=3, metavar=("MODEL", "WORK", "BACKEND"))
    arguments = parser.parse_args()
    keep_freed_memory()
    if arguments.memory:
        measure_memory(*arguments.memory)
        return
    result = {"header": header("python benchmarks/step.py"), "T": T, "batch": BATCH, "size": SIZE}
    result["recurrence"] = measure_recurrence(arguments.repeats)
    result["rows"] = [row for name in MODELS for row in measure_network(name, arguments.repeats)]
    save("step", result)


if __name__ == "__main__":
    main()

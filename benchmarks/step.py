"""Training step and inference of two MS-ResNets against their convolutions alone.

    python benchmarks/step.py

Times are of one process with all cores; the convolutions run on the same shapes, channels-last, in the same run,
in turn with the networks. Peak memory is measured in fresh processes, above what they held before the model was built.
"""

import argparse
import json
import subprocess
import sys

import torch
import torch.nn.functional as F

import isospike as iso
from common import header, interleaved, save
from isospike.train.memory import keep_freed_memory, peak_memory_mb

CPU = torch.device("cpu")
T, BATCH, SIZE = 4, 32, 32
MODELS = {"ms_resnet20": {}, "ms_resnet18": {"stem": "cifar", "num_classes": 10}}


def network(name):
    """Closures for one training step and one inference of a model."""
    model = iso.create_model(name, T=T, **MODELS[name])
    x, y = torch.randn(BATCH, 3, SIZE, SIZE), torch.randint(0, 10, (BATCH,))

    def train():
        model.train()
        F.cross_entropy(model(x), y).backward()
        model.zero_grad()

    def infer():
        model.eval()
        with torch.no_grad():
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


def peak_memory(name, work):
    """Megabytes above the process before the model is built, in a fresh process."""
    command = [sys.executable, __file__, "--memory", name, work]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def measure_memory(name, work):
    """Runs in the fresh process."""
    F.conv2d(torch.randn(1, 3, 8, 8), torch.randn(3, 3, 3, 3))  # load what a convolution loads
    before = peak_memory_mb(CPU)
    train, infer = network(name)
    for _ in range(4):
        train() if work == "train" else infer()
    print(json.dumps(peak_memory_mb(CPU) - before))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--memory", nargs=2, metavar=("MODEL", "WORK"))
    arguments = parser.parse_args()
    keep_freed_memory()
    if arguments.memory:
        measure_memory(*arguments.memory)
        return
    result = {"header": header("python benchmarks/step.py"), "T": T, "batch": BATCH, "size": SIZE, "rows": []}
    for name in MODELS:
        ours, floor = network(name), convolutions(name)
        for number, work in enumerate(("train", "infer")):
            times = interleaved({"isospike": ours[number], "convolutions": floor[number]}, arguments.repeats)
            seconds, alone = times["isospike"]["median"], times["convolutions"]["median"]
            row = {
                "model": name,
                "work": work,
                "images_per_s": BATCH / seconds,
                "ratio_to_convolutions": seconds / alone,
            }
            row |= {"peak_memory_mb": peak_memory(name, work), "seconds": times}
            result["rows"].append(row)
            print(
                f"{name} {work}: {BATCH / seconds:,.0f} images/s, {seconds * 1e3:,.0f} ms, "
                f"{seconds / alone:.2f}x its convolutions, {row['peak_memory_mb']:,.0f} MB"
            )
    save("step", result)


if __name__ == "__main__":
    main()

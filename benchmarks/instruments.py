"""What counting operations costs beside a plain evaluation, and watching beside a training step.

OMP_NUM_THREADS=1 python benchmarks/instruments.py
"""

import argparse

import torch
import torch.nn.functional as F

import isospike as iso
from common import header, interleaved, save
from isospike.analysis import OperationCounter

BATCH, IMAGES = 100, 1000


def alive(name):
    """A model whose neurons fire as in a trained one: statistics of the batch, from a few forwards in training."""
    model = iso.create_model(name)
    with torch.no_grad():
        for _ in range(20):
            model(torch.randn(20, 3, 32, 32))
    return model


def evaluation(model, images):
    """Closures for a pass over all images, plain and with its operations counted."""

    @torch.no_grad()
    def plain():
        model.eval()
        for batch in images.split(BATCH):
            model(batch)

    def counted():
        with OperationCounter(model):
            plain()

    return {"plain": plain, "counted": counted}


def training(model, images):
    """Closures for one training step, plain, watched, and watched without its potentials."""
    labels = torch.arange(len(images)) % 10

    def plain():
        model.train().zero_grad()
        F.cross_entropy(model(images), labels).backward()

    def watched():
        with iso.watch(model):
            plain()

    def rates():
        with iso.watch(model, potentials=False):
            plain()

    return {"plain": plain, "watched": watched, "without_gates": rates}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--models", nargs="+", default=["ms_resnet20"])
    arguments = parser.parse_args()
    torch.manual_seed(0)
    result = {"header": header("python benchmarks/instruments.py"), "batch": BATCH, "images": IMAGES, "rows": []}
    for name in arguments.models:
        model, images = alive(name), torch.randn(IMAGES, 3, 32, 32)
        for task, works in (("evaluation", evaluation(model, images)), ("training", training(model, images[:32]))):
            seconds = interleaved(works, arguments.repeats, warm_up=1)
            ratios = {work: seconds[work]["median"] / seconds["plain"]["median"] for work in works}
            result["rows"].append({"model": name, "task": task, "ratios": ratios, "seconds": seconds})
            print(name, task, {work: f"{ratio:.2f}x" for work, ratio in ratios.items()})
    save("instruments", result)


if __name__ == "__main__":
    main()

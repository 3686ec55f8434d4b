"""Published CIFAR-10 ResNets trained on for some hundred steps on the JPEG copy, as ANNs, before they are converted.

    ISOSPIKE_DATA=DIR python benchmarks/finetune.py OUT --depth 20 --steps 300

DIR holds ``ann/`` with the ResNets of akamaster/pytorch_resnet_cifar10, and ``cifar10/``. OUT gets the weights;
benchmarks/logs a log.
"""

import argparse
import math
import os
import time
from pathlib import Path

import torch
from torch import Tensor

from captured_anns import ann_of, starting_thresholds
from cifar_anns import DEPTHS, normalised, stratified, weights_of
from common import header, save
from isospike.data import load_dataset
from isospike.data.cifar import CifarData
from isospike.models import ProgramNet

BATCH, PAD, WARM_UP = 128, 4, 20


def batch_of(images: Tensor, labels: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Random images, cropped from a border of zeros and mirrored each for itself."""
    chosen = torch.randint(len(images), (BATCH,), generator=generator)
    padded = torch.nn.functional.pad(normalised(images[chosen]), [PAD] * 4)
    shifts = torch.randint(2 * PAD + 1, (BATCH, 2), generator=generator).tolist()
    size = images.shape[-1]
    x = torch.stack([x[:, i : i + size, j : j + size] for x, (i, j) in zip(padded, shifts, strict=True)])
    mirrored = (torch.rand(BATCH, generator=generator) < 0.5).to(x.device)
    return torch.where(mirrored[:, None, None, None], x.flip(-1), x), labels[chosen]


def train(ann: ProgramNet, images: Tensor, labels: Tensor, steps: int, lr: float) -> list[float]:
    """Losses of every step; cosine to 0 after a short warm-up, in bfloat16 where a product allows it."""
    optimizer = torch.optim.SGD(ann.parameters(), lr=lr, momentum=0.9, weight_decay=1e-4, nesterov=True)
    generator, losses = torch.Generator().manual_seed(0), []
    ann.train()
    for step in range(steps):
        rate = min(1.0, (step + 1) / WARM_UP) * 0.5 * (1 + math.cos(math.pi * step / steps))
        optimizer.param_groups[0]["lr"] = lr * rate
        x, y = batch_of(images, labels, generator)
        with torch.autocast(x.device.type, torch.bfloat16):
            logits = ann(x.contiguous(memory_format=torch.channels_last))
        loss = torch.nn.functional.cross_entropy(logits.float(), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    ann.eval()
    return losses


@torch.no_grad()
def accuracy(ann: ProgramNet, images: Tensor, labels: Tensor) -> float:
    """Share of right answers."""
    hits = [
        (ann(normalised(x).contiguous(memory_format=torch.channels_last)).argmax(1) == y).sum()
        for x, y in zip(images.split(250), labels.split(250), strict=True)
    ]
    return int(sum(hits)) / len(labels)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--depth", type=int, default=20, choices=DEPTHS)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--lr", type=float, default=0.01)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--qcfs", action="store_true", help="with QCFS activations, whose thresholds are learnt too")
    parser.add_argument("--images", type=int, default=2000, help="test images, equally many of every class")
    arguments = parser.parse_args()
    folder, depth = Path(os.environ["ISOSPIKE_DATA"]), arguments.depth
    data = load_dataset(CifarData(kind="cifar10", dir=str(folder / "cifar10")))
    train_set, test_set = (
        [t.to(arguments.device) for t in (part.images, part.labels)] for part in (data.train, data.test)
    )
    weights = weights_of(folder / "ann", depth)
    if arguments.qcfs:
        weights |= starting_thresholds(weights, normalised(train_set[0][:512]))
    ann = ann_of(weights, normalised(train_set[0][:2]))
    chosen = stratified(data.test.labels, arguments.images)
    test = [part[chosen.to(arguments.device)] for part in test_set]
    before = accuracy(ann, *test)
    print(f"ResNet-{depth}: {before:.2%} of {arguments.images} test images", flush=True)
    began = time.perf_counter()
    losses = train(ann, *train_set, arguments.steps, arguments.lr)
    seconds = time.perf_counter() - began
    after = accuracy(ann, *test)
    print(f"after {arguments.steps} steps, {seconds:.0f} s: {after:.2%}", flush=True)
    name, kind = f"resnet{depth}", "qcfs" if arguments.qcfs else "resnet"
    arguments.out.mkdir(parents=True, exist_ok=True)
    torch.save({"state_dict": ann.cpu().state_dict(), "best_prec1": 100 * after}, arguments.out / f"{name}-jpeg.th")
    command = f"benchmarks/finetune.py OUT --depth {depth} --steps {arguments.steps} --images {arguments.images}"
    command += " --qcfs" if arguments.qcfs else ""
    command += f" --device {arguments.device}" if arguments.device != "cpu" else ""
    result = {"depth": depth, "data": data.note, "test_images": arguments.images, "before": before, "after": after}
    log = {"header": header(f"ISOSPIKE_DATA=DIR python {command}"), **result, "seconds": seconds, "losses": losses}
    save(f"finetune_{kind}{depth}", log)


if __name__ == "__main__":
    main()

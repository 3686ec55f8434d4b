"""What thresholds cost a CIFAR-10 ResNet by clipping alone: the ANN itself, every rectifier clipped at a quantile.

    ISOSPIKE_DATA=DIR python benchmarks/conversion_clipping.py --depth 20 --images 500

DIR as for ``conversion.py``. No converted network with these thresholds is nearer to its ANN at any number of steps.
"""

import argparse
import os
from pathlib import Path

import torch
from torch import Tensor

from cifar_anns import DEPTHS, normalised, resnet, stratified, weights_of
from common import header, save
from isospike.conversion import capture
from isospike.conversion.activations import Levels, quantiles, rectifier_of
from isospike.conversion.walk import walk
from isospike.data import load_dataset
from isospike.data.cifar import CifarData
from isospike.models import ProgramNet

QUANTILES = (0.999, 0.9999, 1.0)


def clipped(ann: ProgramNet, images: Tensor, thresholds: Levels) -> Tensor:
    """The decisions ``[N]`` of an ANN whose activations end at their thresholds."""
    rectifiers = {op.out: rectifier_of(op) for op in ann.program.operations if op.out in thresholds}
    last, decisions = ann.program.operations[-1].module, []
    hook = last.register_forward_hook(lambda module, inputs, logits: decisions.append(logits.argmax(1)))
    for part in images.split(100):
        walk(ann, part, 1, lambda value, current: rectifiers[value](current)[0].clamp(max=float(thresholds[value])))
    hook.remove()
    return torch.cat(decisions)


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--depth", type=int, default=20, choices=DEPTHS)
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--calibration", type=int, default=512)
    arguments = parser.parse_args()
    folder = Path(os.environ["ISOSPIKE_DATA"])
    data = load_dataset(CifarData(kind="cifar10", dir=str(folder / "cifar10")))
    calibration = normalised(data.train.images[: arguments.calibration])
    chosen = stratified(data.test.labels, arguments.images)
    images, labels = normalised(data.test.images[chosen]), data.test.labels[chosen]
    ann = capture(resnet(weights_of(folder / "ann", arguments.depth)), calibration)
    truth = torch.cat([ann(part).argmax(1) for part in images.split(100)])
    rows = {}
    for q in QUANTILES:
        decisions = clipped(ann, images, quantiles(ann, calibration.split(128), q).quantile)
        shares = [float((decisions == of).double().mean()) for of in (labels, truth)]
        rows[str(q)] = dict(zip(("accuracy", "agreement"), shares, strict=True))
        print(q, rows[str(q)], flush=True)
    command = f"benchmarks/conversion_clipping.py --depth {arguments.depth} --images {arguments.images}"
    result = {"depth": arguments.depth, "images": arguments.images, "calibration": arguments.calibration}
    ann_accuracy = float((truth == labels).double().mean())
    result |= {"data": data.note, "ann": ann_accuracy, "rows": rows}
    save(f"conversion_clipping_{arguments.depth}", {"header": header(f"ISOSPIKE_DATA=DIR python {command}"), **result})


if __name__ == "__main__":
    main()

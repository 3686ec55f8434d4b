"""The CIFAR-10 ResNets of ``cifar_anns.py`` as programs, with QCFS activations where they were trained with these."""

import torch
from torch import Tensor

from cifar_anns import resnet
from isospike.conversion import capture
from isospike.conversion.activations import names_of
from isospike.conversion.thresholds import quantile_thresholds
from isospike.models import ProgramNet
from isospike.neurons import QCFS

QCFS_STEPS, THRESHOLD = 8, ".threshold"


def ann_of(weights: dict[str, Tensor], images: Tensor) -> ProgramNet:
    """The network of these weights, where the images are; with QCFS activations where the weights hold thresholds."""
    thresholds = {name: tensor for name, tensor in weights.items() if name.endswith(THRESHOLD)}
    ann = capture(resnet({name: tensor for name, tensor in weights.items() if name not in thresholds}), images)
    for name, threshold in thresholds.items():
        ann.set_submodule(name.removesuffix(THRESHOLD), QCFS(L=QCFS_STEPS, threshold=float(threshold)))
    return ann.to(images.device).eval()


@torch.no_grad()
def starting_thresholds(weights: dict[str, Tensor], images: Tensor) -> dict[str, Tensor]:
    """The 99.9 % quantile of every activation, by the name of the parameter that starts there."""
    ann = ann_of(weights, images[:2])
    names = names_of(ann)
    found = quantile_thresholds(ann, [images], 0.999)
    return {names[value] + THRESHOLD: threshold for value, threshold in found.items()}

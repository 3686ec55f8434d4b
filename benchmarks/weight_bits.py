"""Accuracy of spiking networks and of the ANNs that are converted, with weights rounded to fewer bits.

    ISOSPIKE_DATA=DIR python benchmarks/weight_bits.py

Weights of every convolution but the first are rounded to integers of that many bits times the scale of their output
channel, as ``precision="int8"`` rounds them to 8. DIR holds ``ann/`` and ``cifar10/``, as for ``conversion.py``.
"""

import copy
import os
from pathlib import Path

import torch
from torch import Tensor, nn

from cifar_anns import DEPTHS, normalised, resnet, stratified, weights_of
from common import header, save
from isospike.data import load_dataset
from isospike.data.cifar import CifarData
from isospike.models import WEIGHTS
from isospike.recipes import load_recipe
from isospike.weights import shipped_weights

BITS = (8, 6, 5, 4, 3)
IMAGES = 2000


def rounded(model: nn.Module, bits: int) -> nn.Module:
    """A copy whose convolutions have weights of so many bits."""
    model, largest = copy.deepcopy(model), 2 ** (bits - 1) - 1
    for conv in [module for module in model.modules() if isinstance(module, nn.Conv2d)][1:]:
        scale = conv.weight.detach().abs().amax((1, 2, 3), keepdim=True).clamp(min=1e-12) / largest
        conv.weight.data = (conv.weight.detach() / scale).round() * scale
    return model


@torch.inference_mode()
def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    decided = torch.cat([model(part).argmax(-1) for part in images.split(100)])
    return float((decided == labels).double().mean())


def spiking() -> dict[str, tuple[nn.Module, Tensor, Tensor]]:
    """The networks that come with the package and take images, and the images that they were tested with."""
    found = {}
    for name, card in shipped_weights().items():
        if "camera" in name:
            continue
        test = load_dataset(load_recipe(card["recipe"]).data).test
        net = WEIGHTS[name]()
        mean, std = (torch.tensor(numbers).view(-1, 1, 1) for numbers in (net.inputs.mean, net.inputs.std))
        found[name] = (net, (test.images / 255 - mean) / std, test.labels)
    return found


def anns() -> dict[str, tuple[nn.Module, Tensor, Tensor]]:
    """Published CIFAR-10 ResNets."""
    folder = Path(os.environ["ISOSPIKE_DATA"])
    test = load_dataset(CifarData(kind="cifar10", dir=str(folder / "cifar10"))).test
    chosen = stratified(test.labels, IMAGES)
    images, labels = normalised(test.images[chosen]), test.labels[chosen]
    return {f"ANN, ResNet-{depth}": (resnet(weights_of(folder / "ann", depth)), images, labels) for depth in DEPTHS}


def main() -> None:
    rows = {}
    for name, (model, images, labels) in {**spiking(), **anns()}.items():
        found = {"float32": accuracy(model, images, labels)}
        found |= {str(bits): accuracy(rounded(model, bits), images, labels) for bits in BITS}
        rows[name] = {"images": len(labels), "accuracy": found}
        print(f"{name}: " + ", ".join(f"{bits} {a:.2%}" for bits, a in found.items()), flush=True)
    save("weight_bits", {"header": header("ISOSPIKE_DATA=DIR python benchmarks/weight_bits.py"), "rows": rows})


if __name__ == "__main__":
    main()

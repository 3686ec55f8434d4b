"""The CIFAR-10 ResNets of akamaster/pytorch_resnet_cifar10 in PyTorch alone, and their images, for conversion.

Architecture: He et al. 2016, section 4.2, with option-A shortcuts; names of modules are those of the published weights.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

DEPTHS = (20, 32, 44, 56)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLASSES = 10


class Block(nn.Module):
    """Two convolutions; where the shape changes, every second pixel and channels of zeros."""

    def __init__(self, into: int, out: int) -> None:
        super().__init__()
        self.stride, self.pad = out // into, (out - into) // 2
        self.conv1 = nn.Conv2d(into, out, 3, self.stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.relu1, self.relu2 = nn.ReLU(), nn.ReLU()
        self.shortcut: nn.Conv2d | None = None  # instead of strides and zeros

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
        if self.shortcut is not None:
            x = self.shortcut(x)
        elif self.stride > 1:
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.pad, self.pad))
        return self.relu2(y + x)


class ResNet(nn.Module):
    """Of 6n + 2 layers."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.conv1, self.bn1, self.relu = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()
        for stage, (into, out) in enumerate(((16, 16), (16, 32), (32, 64)), 1):
            blocks = (Block(into if n == 0 else out, out) for n in range((depth - 2) // 6))
            setattr(self, f"layer{stage}", nn.Sequential(*blocks))
        self.linear = nn.Linear(64, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer3(self.layer2(self.layer1(self.relu(self.bn1(self.conv1(x))))))
        return self.linear(x.mean((2, 3)))


def weights_of(folder: Path, depth: int) -> dict[str, Tensor]:
    """The weights below ``folder``: as published, or as ``finetune.py`` writes them."""
    (path,) = folder.glob(f"resnet{depth}-*.th")
    tensors = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
    return {name.removeprefix("module."): tensor for name, tensor in tensors.items()}


def resnet(weights: dict[str, Tensor]) -> ResNet:
    """The network of these weights, in eval mode."""
    net = ResNet(6 * sum(name.startswith("layer1.") and name.endswith("conv1.weight") for name in weights) + 2)
    net.load_state_dict(weights, strict=False)  # published without the counters of batches
    if any(not name.endswith("num_batches_tracked") for name in net.state_dict().keys() ^ weights.keys()):
        raise ValueError("these are not the weights of a CIFAR-10 ResNet")
    return net.eval()


@torch.no_grad()
def with_convolutions(net: ResNet) -> ResNet:
    """The same network, its shortcuts without weights as convolutions of zeros and ones."""
    for block in net.modules():
        if isinstance(block, Block) and block.stride > 1:
            into, out = block.conv1.in_channels, block.conv1.out_channels
            block.shortcut = nn.Conv2d(into, out, 1, block.stride, bias=False)
            block.shortcut.weight.zero_()
            block.shortcut.weight[block.pad : block.pad + into, :, 0, 0] = torch.eye(into)
    return net


def normalised(images: Tensor) -> Tensor:
    """Images of 0 to 255 as the networks read them."""
    mean, std = (torch.tensor(v, device=images.device).view(-1, 1, 1) for v in (MEAN, STD))
    return (images.float() / 255 - mean) / std


def stratified(labels: Tensor, count: int) -> Tensor:
    """Places of the first images of every class, equally many, in their order; all where ``count`` is all."""
    if count % CLASSES:
        raise ValueError(f"{count} images are not equally many of {CLASSES} classes")
    if count >= len(labels):
        return torch.arange(len(labels))
    first = [(labels == k).nonzero().flatten()[: count // CLASSES] for k in range(CLASSES)]
    return torch.cat(first).sort().values

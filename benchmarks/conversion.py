"""Accuracy of converted CIFAR-10 ResNets against time steps, by method, beside their ANNs.

    ISOSPIKE_DATA=DIR python benchmarks/conversion.py --depth 20 --T 64 --images 1000

DIR holds ``ann/`` with the ResNets of akamaster/pytorch_resnet_cifar10, and ``cifar10/``. Calibration is on training
images; all methods see the same ones, and the same test images. Spikes per neuron are those of an image in T steps.
"""

import argparse
import os
import time
from pathlib import Path

import torch

from common import header, save
from isospike.conversion import METHODS, accuracy_by_step
from isospike.conversion.evaluation import decisions_of
from isospike.data import ArrayImages, load_dataset
from isospike.data.cifar import CifarData
from isospike.graph import modules_of, record
from isospike.layers import BatchNorm, Conv2d, GlobalPool
from isospike.models import ProgramNet
from isospike.neurons import ReLU, SpikingNeuron

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
STEPS = (1, 2, 4, 8, 16, 32, 64, 128, 350)
RUNS = {
    "s_resnet": ("s_resnet", {}),
    "s_resnet, no shortcut conversion": ("s_resnet", {"shortcuts": False}),
    "s_resnet, no compensation": ("s_resnet", {"compensation": "none"}),
    "max": ("max", {}),
    "percentile": ("percentile", {}),
    "mmse": ("mmse", {}),
    "calibrated": ("calibrated", {}),
    "mmse, 15 levels": ("mmse", {"levels": 15}),
}


def resnet(weights: dict[str, torch.Tensor]) -> ProgramNet:
    """The ResNet of a state dict, its shortcuts without weights as convolutions of zeros and ones."""
    modules: dict[str, torch.nn.Module] = {}

    def conv(name: str, stride: int) -> torch.nn.Module:
        out, into, size, _ = weights[f"{name}.weight"].shape
        modules[name] = Conv2d(into, out, size, stride=stride, padding=size // 2, bias=False)
        modules[name].weight.data.copy_(weights[f"{name}.weight"])
        return modules[name]

    def norm(name: str) -> torch.nn.Module:
        modules[name] = BatchNorm(len(weights[f"{name}.weight"]))
        own = {key: weights[f"{name}.{key}"] for key in ("weight", "bias", "running_mean", "running_var")}
        modules[name].load_state_dict(own)
        return modules[name]

    def relu(name: str) -> torch.nn.Module:
        modules[name] = ReLU()
        return modules[name]

    def shortcut(name: str, into: int, out: int) -> torch.nn.Module:
        modules[name] = layer = Conv2d(into, out, 1, stride=2, bias=False)
        layer.weight.data.zero_()
        layer.weight.data[(out - into) // 2 :][:into, :, 0, 0] = torch.eye(into)
        return layer

    def forward(x, steps):
        x = steps.through(relu("relu"), steps.through(norm("bn1"), steps.through(conv("conv1", 1), x)))
        channels = 16
        units = dict.fromkeys(tuple(key.split(".")[:2]) for key in weights if key.startswith("layer"))
        for stage, unit in units:
            name, out = f"{stage}.{unit}", 16 * 2 ** (int(stage[-1]) - 1)
            skip = x if out == channels else steps.through(shortcut(f"{name}.shortcut", channels, out), x)
            x = steps.through(norm(f"{name}.bn1"), steps.through(conv(f"{name}.conv1", out // channels), x))
            x = steps.through(relu(f"{name}.relu1"), x)
            x = steps.through(norm(f"{name}.bn2"), steps.through(conv(f"{name}.conv2", 1), x)) + skip
            x, channels = steps.through(relu(f"{name}.relu2"), x), out
        modules["pool"], modules["linear"] = GlobalPool(), torch.nn.Linear(64, 10)
        modules["linear"].load_state_dict({key: weights[f"linear.{key}"] for key in ("weight", "bias")})
        return [steps.through(modules["linear"], steps.through(modules["pool"], x))]

    program = record(forward, 3)
    assert {*modules_of(program)} == {*modules.values()}
    return ProgramNet(program, modules, T=1, least_size=4).eval()


def load_weights(folder: Path, depth: int) -> dict[str, torch.Tensor]:
    (path,) = (folder / "ann").glob(f"resnet{depth}-*.th")
    tensors = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
    return {name.removeprefix("module."): tensor for name, tensor in tensors.items()}


def images_of(split: ArrayImages, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The first images, normalised, and their labels."""
    mean, std = (torch.tensor(v).view(-1, 1, 1) for v in (MEAN, STD))
    return (split.images[:count].float() / 255 - mean) / std, split.labels[:count]


@torch.no_grad()
def spikes_per_neuron(net: ProgramNet, images: torch.Tensor, T: int) -> float:
    """Mean over neurons and images; an output of several levels counts as so many."""
    spikes: dict[torch.nn.Module, list[float]] = {}
    neurons: dict[torch.nn.Module, int] = {}

    def count(neuron: torch.nn.Module, inputs: object, outputs: tuple[torch.Tensor, torch.Tensor]) -> None:
        spikes.setdefault(neuron, []).append(float(outputs[0].sum()))
        neurons[neuron] = outputs[0][0].numel()

    hooks = [m.register_forward_hook(count) for m in net.modules() if isinstance(m, SpikingNeuron)]
    net(images, T=T)
    for hook in hooks:
        hook.remove()
    return sum(map(sum, spikes.values())) / sum(neurons.values())


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--depth", type=int, default=20)
    parser.add_argument("--T", type=int, default=64)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--calibration", type=int, default=512)
    parser.add_argument("--only", action="append", choices=RUNS)
    arguments = parser.parse_args()
    folder = Path(os.environ["ISOSPIKE_DATA"])
    dataset = load_dataset(CifarData(kind="cifar10", dir=str(folder / "cifar10")))
    calibration, _ = images_of(dataset.train, arguments.calibration)
    images, labels = images_of(dataset.test, arguments.images)
    ann = resnet(load_weights(folder, arguments.depth))
    truth = float((decisions_of(ann, images) == labels).double().mean())
    print(f"ResNet-{arguments.depth}, ANN: {truth:.2%} of {len(labels)} images", flush=True)
    rows = []
    for name in arguments.only or RUNS:
        method, options = RUNS[name]
        began = time.perf_counter()
        net = METHODS[method].convert(ann, calibration.split(128), T=arguments.T, **options)
        converted = time.perf_counter()
        accuracy = accuracy_by_step(net, [(images, labels)], arguments.T).tolist()
        seconds = {"convert": converted - began, "simulate": time.perf_counter() - converted}
        kept = {T: accuracy[T - 1] for T in STEPS if arguments.T >= T}
        rows.append({"name": name, "method": method, "options": options, "seconds": seconds, "accuracy": kept})
        rows[-1]["spikes_per_neuron"] = spikes_per_neuron(net, images[:32], arguments.T)
        print(f"{name}: " + ", ".join(f"T={T} {a:.2%}" for T, a in kept.items()), flush=True)
        print(f"    {rows[-1]['spikes_per_neuron']:.2f} spikes per neuron, {seconds}", flush=True)
        result = {"depth": arguments.depth, "T": arguments.T, "images": len(labels), "data": dataset.note}
        command = f"benchmarks/conversion.py --depth {arguments.depth} --T {arguments.T} --images {arguments.images}"
        log = {"header": header(f"ISOSPIKE_DATA=DIR python {command}"), **result, "ann": truth, "rows": rows}
        save(f"conversion_{arguments.depth}_T{arguments.T}", log)


if __name__ == "__main__":
    main()

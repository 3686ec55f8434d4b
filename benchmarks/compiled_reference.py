"""torch.compile of the reference beside the compiled library: norm and neurons, forward and backward.

    python benchmarks/compiled_reference.py

Batch norm over time, batch and space, then LIF neurons through T=4 steps, batch 32, channels-last; one compilation
for each shape, as for the units of a deep network.
"""

import torch

import isospike as iso
from common import header, interleaved, save
from isospike.layers import BatchNorm, fold_time
from isospike.malloc import keep_freed_memory

T, BATCH = 4, 32
SHAPES = {"16 channels, 32x32": (16, 32), "64 channels, 8x8": (64, 8), "64 channels, 32x32": (64, 32)}


def contestants(channels, size):
    """Closures for one forward and backward of each way."""
    norm = BatchNorm(channels)
    neuron = iso.LIF(decay=0.25, v_threshold=0.5, surrogate="rectangle", strict=True, detach_reset=True)
    folded = torch.randn(T * BATCH, channels, size, size).contiguous(memory_format=torch.channels_last)
    x = folded.unflatten(0, (T, BATCH)).requires_grad_()
    g = torch.randn_like(x)

    def unit(x):
        with iso.use_backend("reference"):
            return neuron(fold_time(norm, x))[0]

    def run(function):
        return lambda: torch.autograd.grad(function(x), (x, norm.weight, norm.bias), g)

    decay, gain = neuron.coefficients()
    firing = iso.ops.Firing(decay, gain, neuron.rule)

    def fused(x):
        return iso.ops.norm_fire(x, norm.weight, norm.bias, norm.eps, firing=firing).s

    return {"compiled library": run(fused), "torch.compile": run(torch.compile(unit)), "reference": run(unit)}


def main():
    keep_freed_memory()
    torch.manual_seed(0)
    found = {}
    for name, shape in SHAPES.items():
        found[name] = interleaved(contestants(*shape), 25, warm_up=3)
        medians = {way: times["median"] * 1e3 for way, times in found[name].items()}
        print(name, {way: f"{value:.2f} ms" for way, value in medians.items()})
    save("compiled_reference", {"header": header("python benchmarks/compiled_reference.py"), "shapes": found})


if __name__ == "__main__":
    main()

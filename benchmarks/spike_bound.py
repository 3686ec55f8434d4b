"""What a convolution of spikes takes beside its additions, which bounds how near it comes to the machine's rate.

    OMP_NUM_THREADS=1 python benchmarks/spike_bound.py

256 channels on 8x8 maps, 3x3, one thread, times of the processor, medians. The unit is the time of one addition of a
vector out of the inner cache, at the machine's rate: a spike is nine of them at least. A line through the times of 6 to
48 spikes in every 64 channels gives what a spike takes, and what a pixel takes that has none. "same": the same channels
fire at all pixels, so their weights lie in the inner cache, and the processor guesses right where every loop ends. "as
many": other channels at every pixel, but as many of them, so the weights of all are read. "random": as many on average,
so the processor guesses wrong.
"""

import statistics
import time

import torch

from common import header, save
from isospike.bench.limits import machine_limits
from isospike.ops.cpu.library import instruction_set, lanes
from isospike.ops.cpu.packing import packed
from isospike.ops.cpu.spike_conv import spike_conv, spike_weight, weight_gradient

N, CHANNELS, SIDE, WORD, TAPS = 64, 256, 8, 64, 9
FIRED, ROUNDS = (6, 12, 24, 48), 15
PATTERNS = ("same", "as many", "random")


def spikes(pattern, fired):
    """Maps in which ``fired`` of every 64 channels are 1."""
    shape = N, SIDE, SIDE, CHANNELS // WORD, WORD
    order = torch.rand(WORD).expand(shape) if pattern == "same" else torch.rand(shape)
    ones = order < fired / WORD if pattern == "random" else order.argsort(-1).argsort(-1) < fired
    return ones.float().flatten(3).permute(0, 3, 1, 2)


def units(work, unit):
    """Median time of a pixel, of 64 channels and one vector of filters, in units."""
    found = []
    for _ in range(ROUNDS + 1):
        began = time.process_time()
        work()
        found.append(time.process_time() - began)
    pixels = N * SIDE * SIDE * (CHANNELS / WORD) * (CHANNELS / lanes())
    return statistics.median(found[1:]) / pixels / unit


def measured(maps, work, unit):
    """What a spike and a pixel take, from ``maps`` by how many fire in 64 channels; the share of the rate at 12."""
    found = {x.number / (N * SIDE * SIDE * CHANNELS / WORD): units(lambda x=x: work(x), unit) for x in maps}
    of_spike, of_pixel = statistics.linear_regression(list(found), list(found.values()))
    fired, taken = list(found.items())[FIRED.index(12)]
    return {"of a spike": of_spike, "of a pixel": of_pixel, "share": TAPS * fired / taken, "units": found}


def main():
    torch.manual_seed(0)
    assert torch.get_num_threads() == 1, "times of the processor are those of one thread: set OMP_NUM_THREADS=1"
    unit = lanes() / machine_limits(1)["additions"]
    weight = torch.randn(CHANNELS, CHANNELS, 3, 3) * 0.01
    ordered = spike_weight(weight, None, 1)
    g = torch.randn(N, CHANNELS, SIDE, SIDE).contiguous(memory_format=torch.channels_last)
    works = {"output": lambda x: spike_conv(x, ordered), "gradient": lambda x: weight_gradient(x, weight, g, 1)}
    rows = {}
    for pattern in PATTERNS:
        maps = [packed(spikes(pattern, fired)) for fired in FIRED]
        for name, work in works.items():
            rows[f"{name}, {pattern}"] = row = measured(maps, work, unit)
            print(f"{name}, {pattern}: " + ", ".join(f"{row[k]:.2f} {k}" for k in list(row)[:3]))
    save(f"spike_bound_{instruction_set()}", {"header": header("python benchmarks/spike_bound.py"), "rows": rows})


if __name__ == "__main__":
    main()

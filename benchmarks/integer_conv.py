"""Convolutions of spikes in int8, ours and oneDNN's, beside ours in float32: one thread, times of the processor.

    python benchmarks/integer_conv.py --log integer_conv

A gain is the time of oneDNN's by that of ours. "table" and "loop" are the two ways of ours, of which
``ops/cpu/spike_conv.py`` (``has_table``) takes one; all three give the same bits. Spikes come as bits, and as bytes to
oneDNN's. With ISOSPIKE_ISA=avx2 and ONEDNN_MAX_CPU_ISA=AVX2 in the environment it runs the kernels of AVX2.
"""

import argparse
import os
import time

import torch

from common import header, save, summary
from isospike.inference.convolution import quantised
from isospike.malloc import keep_freed_memory
from isospike.ops.cpu.packing import packed
from isospike.ops.cpu.spike_conv import has_table, integer_spike_weight, spike_conv, spike_weight

RATES, REPEATS, ELEMENTS = (0.05, 0.19, 0.4, 0.6), 9, 2**19
# Channels, filters, height and width, kernel, stride.
SHAPES = [
    (16, 16, 32, 3, 1),
    (32, 32, 16, 3, 1),
    (64, 64, 8, 3, 1),
    (64, 64, 32, 3, 1),
    (128, 128, 16, 3, 1),
    (256, 256, 8, 3, 1),
    (512, 512, 4, 3, 1),
    (16, 32, 32, 3, 2),
    (32, 64, 16, 3, 2),
    (64, 128, 32, 3, 2),
    (128, 256, 16, 3, 2),
    (64, 64, 16, 1, 1),
    (128, 256, 16, 1, 2),
]


def onednn(x, integers, scale, stride):
    kernel = integers.shape[2]
    geometry = (stride,) * 2, (kernel // 2,) * 2, (1, 1)
    weight = torch.ops.onednn.qconv_prepack(integers, scale, 1.0, 0, *geometry, 1, None)
    zero, run = torch.zeros(len(integers), dtype=torch.int32), torch.ops.onednn.qconv2d_pointwise.default
    return lambda: run(
        x, 1.0, 0, weight, scale, zero, None, *geometry, 1, 1.0, 0, torch.float32, "none", [], ""
    ).contiguous(memory_format=torch.channels_last)


def works(shape, rate):
    channels, filters, size, kernel, stride = shape
    maps = max(4, min(128, ELEMENTS // (channels * size * size)))
    x = (torch.rand(maps, channels, size, size) < rate).float().contiguous(memory_format=torch.channels_last)
    weight = torch.randn(filters, channels, kernel, kernel).contiguous(memory_format=torch.channels_last)
    (integers, scale), spikes = quantised(weight), packed(x)
    loop, table = (integer_spike_weight(integers, scale, None, stride, table=table) for table in (False, True))
    floats = spike_weight(weight, None, stride, table=has_table(weight, stride, integer=False))
    found = {
        "float32": lambda: spike_conv(spikes, floats),
        "loop": lambda: spike_conv(spikes, loop),
        "table": lambda: spike_conv(spikes, table),
        "oneDNN": onednn(x.to(torch.uint8), integers, scale, stride),
    }
    assert torch.equal(found["loop"](), found["oneDNN"]())
    assert torch.equal(found["table"](), found["oneDNN"]())
    return found, "table" if has_table(weight, stride, integer=True) else "loop"


def timed(works):
    seconds = {name: [] for name in works}
    for repeat in range(REPEATS + 1):
        for name, work in works.items():
            began = time.thread_time()
            work()
            if repeat:
                seconds[name].append(time.thread_time() - began)
    return {name: summary(values) for name, values in seconds.items()}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--log", default="integer_conv")
    arguments = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rows = []
    for shape in SHAPES:
        for rate in RATES:
            found, taken = works(shape, rate)
            seconds = timed(found)
            gain = seconds["oneDNN"]["median"] / seconds[taken]["median"]
            over_float = seconds["float32"]["median"] / seconds[taken]["median"]
            gains = {"over oneDNN": gain, "over float32": over_float}
            times = {name: of["median"] for name, of in seconds.items()}
            rows.append({"shape": shape, "rate": rate, "taken": taken, "gains": gains, "seconds": times})
            print(shape, rate, taken, f"{gain:.2f}x of oneDNN, {over_float:.2f}x of float32", flush=True)
    about = {**header("python benchmarks/integer_conv.py"), "ONEDNN_MAX_CPU_ISA": os.environ.get("ONEDNN_MAX_CPU_ISA")}
    save(arguments.log, {"header": about, "rows": rows})


if __name__ == "__main__":
    main()

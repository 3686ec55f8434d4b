"""Convolutions of spikes beside the dense ones of PyTorch, by how many neurons fire: 64 maps, channels-last.

    OMP_NUM_THREADS=1 [ISOSPIKE_ISA=avx2 ONEDNN_MAX_CPU_ISA=AVX2] python benchmarks/spike_conv.py

Output and gradient of the weights, in seconds of the processor; a gain is the time of the dense one by that of ours.
Counts are integers from 1 to 3. The highest rates show where the dense ones win: there ``ops/cpu/spike_conv.py`` hands
over to them, and the last lines say at which rates that is.
"""

import math
import statistics
import time
from itertools import pairwise

import torch
import torch.nn.functional as F

from common import header, interleaved, save
from isospike.malloc import keep_freed_memory
from isospike.ops.conv2d import Convolution, gradients
from isospike.ops.cpu.packing import packed
from isospike.ops.cpu.spike_conv import spike_conv, spike_weight, weight_gradient
from isospike.ops.cpu.winograd import has_winograd, winograd_conv, winograd_weight

MAPS, REPEATS = 64, 5
HANDED = ("output", "output over winograd", "gradient")
RATES = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8)
# Channels, filters, height and width, kernel, stride; those of more than 16 million elements at a quarter of the maps.
SHAPES = [
    (16, 16, 32, 3, 1),
    (32, 32, 16, 3, 1),
    (64, 64, 8, 3, 1),
    (64, 64, 32, 3, 1),
    (128, 128, 16, 3, 1),
    (256, 256, 8, 3, 1),
    (512, 512, 4, 3, 1),
    (64, 64, 56, 3, 1),
    (16, 32, 32, 3, 2),
    (64, 128, 32, 3, 2),
    (256, 64, 28, 1, 1),
    (64, 256, 28, 1, 1),
    (128, 256, 16, 1, 2),
]


def spikes(shape, rate, most):
    x = (torch.rand(shape) < rate) * torch.randint(1, most + 1, shape)
    return x.float().contiguous(memory_format=torch.channels_last)


def works(x, weight, stride):
    """Output and gradient, ours and PyTorch's, of x as training and the compiled network find it: floats."""
    geometry, kept = geometry_of(weight, stride), packed(x)
    padding, g = geometry.padding[0], torch.randn_like(F.conv2d(x, weight, None, stride, geometry.padding))
    dense = (
        {"winograd output": lambda: winograd_conv(x, winograd_weight(weight, None))}
        if has_winograd(weight, geometry)
        else {}
    )
    return dense | {
        "output": lambda: spike_conv(packed(x), spike_weight(weight, None, stride)),
        "dense output": lambda: F.conv2d(x, weight, None, stride, padding),
        "gradient": lambda: weight_gradient(kept, weight, g, stride),
        "dense gradient": lambda: gradients(g, x, weight, geometry, [False, True, False]),
    }


def geometry_of(weight, stride):
    return Convolution((stride,) * 2, (weight.shape[2] // 2,) * 2, (1, 1), 1)


def handed_over(rows, kind, most):
    """At which rate the gain falls below 1, on the way between two that were measured; the median over the shapes."""
    shapes = {}
    for row in rows:
        if row["most"] == most and kind in row["gain"]:
            key = tuple(row[name] for name in ("channels", "filters", "size", "kernel", "stride"))
            shapes.setdefault(key, []).append((row["rate"], math.log(row["gain"][kind])))
    return {"median": statistics.median(found := [crossing(points) for points in shapes.values()]), "all": found}


def crossing(points):
    """Where a line through logarithms of gains, by rate, comes to 0 first; the last rate where it does not."""
    if points[0][1] <= 0:
        return 0.0
    for (r, a), (s, b) in pairwise(points):
        if b <= 0:
            return r + (s - r) * a / (a - b)
    return points[-1][0]


def main():
    keep_freed_memory()
    torch.manual_seed(0)
    rows = []
    for channels, filters, size, kernel, stride in SHAPES:
        maps = MAPS if MAPS * channels * size**2 <= 2**24 else MAPS // 4
        weight = torch.randn(filters, channels, kernel, kernel).contiguous(memory_format=torch.channels_last)
        for most in (1, 3):
            for rate in RATES:
                seconds = interleaved(
                    works(spikes((maps, channels, size, size), rate, most), weight, stride),
                    REPEATS,
                    clock=time.process_time,
                )
                gains = {
                    name: seconds[f"dense {name}"]["median"] / seconds[name]["median"]
                    for name in ("output", "gradient")
                }
                if "winograd output" in seconds:
                    gains["output over winograd"] = seconds["winograd output"]["median"] / seconds["output"]["median"]
                shape = {"channels": channels, "filters": filters, "size": size, "kernel": kernel, "stride": stride}
                times = {name: {key: of[key] for key in ("median", "quartiles")} for name, of in seconds.items()}
                rows.append({**shape, "maps": maps, "most": most, "rate": rate, "gain": gains, "seconds": times})
                line = " ".join(f"{name} {gain:.2f}x" for name, gain in gains.items())
                print(*shape.values(), "spikes" if most == 1 else "counts", rate, line, flush=True)
    top = header("OMP_NUM_THREADS=1 python benchmarks/spike_conv.py")
    found = {f"{kind} {most}": handed_over(rows, kind, most) for kind in HANDED for most in (1, 3)}
    print(found)
    save(f"spike_conv_{top['instruction_set']}", {"header": top, "rows": rows, "handed over": found})


if __name__ == "__main__":
    main()

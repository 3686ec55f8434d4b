"""Dense convolutions of the library beside PyTorch's, in the shapes of ``isospike bench --suite cpu``, channels-last.

    python benchmarks/dense_products.py

Outputs and gradients of the input, as a training step calls them, and outputs by weights that were put in order
beforehand, as a compiled network calls them. One thread, and the processor's time in place of the clock's: what else
runs on the machine then hardly counts. All ways of one shape are timed in turn; the gain of a round is PyTorch's time
by that of ours, and the log holds the median of the gains with its quartiles.
"""

import statistics
import time

import torch
import torch.nn.functional as F

from common import header, save
from isospike.malloc import keep_freed_memory
from isospike.ops.conv2d import Convolution, gradients
from isospike.ops.cpu.winograd import has_winograd, winograd_conv, winograd_input_gradient, winograd_weight

MAPS, ROUNDS, SLICE = 128, 11, 0.02  # seconds
# Channels, filters, height and width, kernel, stride.
SHAPES = [
    (16, 16, 32, 3, 1),  # resnet20
    (32, 32, 16, 3, 1),
    (64, 64, 8, 3, 1),
    (64, 64, 32, 3, 1),  # resnet18 with CIFAR's stem
    (128, 128, 16, 3, 1),
    (256, 256, 8, 3, 1),
    (512, 512, 4, 3, 1),
]


def works(x, weight, stride):
    """By what is computed, ours and PyTorch's; only what the library has."""
    padding = weight.shape[2] // 2
    geometry = Convolution((stride,) * 2, (padding,) * 2, (1, 1), 1)
    g = torch.randn_like(F.conv2d(x, weight, None, stride, padding))
    pairs, dense_gradient = {}, lambda: gradients(g, x, weight, geometry, [True, False, False])
    if has_winograd(weight, geometry):
        ready, ordered = winograd_weight(weight, None), in_order(x, weight, geometry)
        options = None, geometry.padding, geometry.stride, geometry.dilation, geometry.groups, "none", [], ""
        pairs["output"] = (
            lambda: winograd_conv(x, winograd_weight(weight, None)),
            lambda: F.conv2d(x, weight, None, stride, padding),
        )
        pairs["output, weights in order"] = (
            lambda: winograd_conv(x, ready),
            lambda: torch.ops.mkldnn._convolution_pointwise.default(x, ordered, *options),
        )
        pairs["gradient of the input"] = lambda: winograd_input_gradient(g, weight), dense_gradient
    return pairs


def in_order(x, weight, geometry):
    """Weights in an order of oneDNN's own, as ``inference/convolution.py`` hands them to it."""
    options = geometry.padding, geometry.stride, geometry.dilation, geometry.groups
    return torch.ops.mkldnn._reorder_convolution_weight(weight, *options, [*x.shape])


def seconds_of(work, times):
    """The processor's, for one call of ``times`` in a row."""
    began = time.process_time()
    for _ in range(times):
        work()
    return (time.process_time() - began) / times


def compare(ours, dense):
    """The gain with its quartiles, and the median seconds behind it; warm after the first calls."""
    times = max(1, round(SLICE / min(seconds_of(ours, 2), seconds_of(dense, 2))))
    pairs = [(seconds_of(ours, times), seconds_of(dense, times)) for _ in range(ROUNDS)]
    low, gain, high = statistics.quantiles([b / a for a, b in pairs], n=4)
    medians = dict(zip(("ours", "PyTorch"), map(statistics.median, zip(*pairs, strict=True)), strict=True))
    return {"gain": gain, "quartiles": [low, high], "rounds": ROUNDS, "seconds": medians}


def main():
    keep_freed_memory()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rows = []
    for channels, filters, size, kernel, stride in SHAPES:
        weight = torch.randn(filters, channels, kernel, kernel).contiguous(memory_format=torch.channels_last)
        x = torch.randn(MAPS, channels, size, size).contiguous(memory_format=torch.channels_last)
        shape = {"channels": channels, "filters": filters, "size": size, "kernel": kernel, "stride": stride}
        for what, pair in works(x, weight, stride).items():
            row = compare(*pair)
            rows.append({**shape, "what": what, **row})
            print(
                *shape.values(), what, "{:.2f}x ({:.2f} to {:.2f})".format(row["gain"], *row["quartiles"]), flush=True
            )
    save("dense_products", {"header": header("python benchmarks/dense_products.py"), "maps": MAPS, "rows": rows})


if __name__ == "__main__":
    main()

"""Where a training step of ms_resnet20 goes, by PyTorch's profiler: T=4, batch 32, 32x32.

    python benchmarks/profile_step.py

Beside it the bytes that the fused passes must move, counted from what each of them reads and writes, and how fast this
machine copies a tensor of the size of the largest norm, and one too large for its caches.
"""

import time

import torch
import torch.nn.functional as F
from torch.profiler import ProfilerActivity, profile

import isospike as iso
from common import header, interleaved, save
from isospike.layers import BatchNorm
from isospike.malloc import keep_freed_memory

T, BATCH, SIZE, STEPS = 4, 32, 32, 20
PARTS = {
    "spikes to bits, and convolutions of spikes": ("_PackedConv",),
    "their gradients: of weights, and of inputs at stride 1": ("_PackedConvBackward",),
    "dense convolutions: stem, projections": ("aten::mkldnn_convolution",),
    "dense gradients: at stride 2, of stem and projections": ("aten::convolution_backward",),
    "norm, sum and neuron, forward": ("_NormFire",),
    "norm, sum and neuron, backward": ("_NormFireBackward",),
}
# Arrays of a norm's size that a forward and a backward read or write. Without a skip: x twice, s; x twice, ds, g twice,
# dx. With one also the skip and u, then du. The surrogate masks of ms_resnet20's neurons are two bits and left out.
PASSES = {"without a skip": 3 + 6, "with a skip": 5 + 7}


def norm_bytes(model, x):
    """Bytes of the input of each norm, as they come."""
    sizes = []
    hooks = [
        module.register_forward_pre_hook(lambda _, args: sizes.append(args[0].nbytes))
        for module in model.modules()
        if isinstance(module, BatchNorm)
    ]
    with torch.no_grad():
        model(x)
    for hook in hooks:
        hook.remove()
    return sizes


def copies(size):
    x = torch.randn(size // 4)
    y = torch.empty_like(x)
    return lambda: y.copy_(x)


def main():
    keep_freed_memory()
    torch.manual_seed(0)
    model = iso.create_model("ms_resnet20", T=T).train()
    x, y = torch.randn(BATCH, 3, SIZE, SIZE), torch.randint(0, 10, (BATCH,))
    sizes = norm_bytes(model, x)

    def step():
        model.zero_grad()
        F.cross_entropy(model(x), y).backward()

    for _ in range(3):
        step()
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        began = time.perf_counter()
        for _ in range(STEPS):
            step()
        milliseconds = (time.perf_counter() - began) / STEPS * 1e3
    own = {event.key: event.self_cpu_time_total / STEPS / 1e3 for event in profiler.key_averages()}
    parts = {name: sum(own[key] for key in keys) for name, keys in PARTS.items()}
    parts["everything else, the profiler's own work included"] = milliseconds - sum(parts.values())
    copied = interleaved({f"{size} bytes": copies(size) for size in (max(sizes), 2**27)}, 30)
    moved = sum(sizes) * sum(PASSES.values()) / 2
    save(
        "profile_step",
        {
            "header": header("python benchmarks/profile_step.py"),
            "milliseconds": milliseconds,
            "parts": parts,
            "norms_bytes": sizes,
            "fused_passes_bytes": moved,
            "copy": copied,
        },
    )
    for name, value in parts.items():
        print(f"{name}: {value:.1f} ms of {milliseconds:.1f}")
    print(f"the fused passes move {moved / 1e9:.2f} GB")
    for name, seconds in copied.items():
        print(f"a copy of {name}: {seconds['median'] * 1e3:.2f} ms")


if __name__ == "__main__":
    main()

"""Why eval has convolutions of its own: bits and time of folding time into the batch of PyTorch's.

    python benchmarks/stepwise.py

First: for how many layer shapes a convolution of T*B images gives other bits than T convolutions of B images. Then:
time of a whole network in eval, its modules folded as in training against step by step.
"""

import argparse

import torch
import torch.nn.functional as F

import isospike as iso
from common import header, interleaved, save
from isospike.malloc import keep_freed_memory

# (in, out, kernel, stride, map size) of layers of the CIFAR and ImageNet bodies
SHAPES = [
    (3, 16, 3, 1, 32), (16, 16, 3, 1, 32), (16, 32, 3, 2, 32), (16, 32, 1, 1, 16), (32, 64, 3, 1, 8), (64, 64, 3, 1, 8),
    (64, 64, 3, 1, 32), (64, 128, 3, 2, 32), (128, 128, 3, 1, 16), (256, 256, 3, 1, 8), (512, 512, 3, 1, 4),
    (64, 256, 1, 1, 8), (256, 64, 1, 1, 8), (1024, 2048, 1, 2, 2), (512, 512, 3, 1, 1), (2048, 512, 1, 1, 1),
    (3, 64, 7, 2, 32), (1, 16, 3, 1, 8),
]  # fmt: skip
BATCHES = [(1, 2), (1, 4), (1, 6), (2, 4), (3, 5), (8, 4), (32, 4)]
MODELS = {"ms_resnet20": {}, "ms_resnet18": {"stem": "cifar", "num_classes": 10}}


def channels_last(x):
    return x.contiguous(memory_format=torch.channels_last)


def differing_bits():
    """Cases of (shape, B, T, spikes or reals) whose bits differ."""
    found, cases = [], 0
    for shape in SHAPES:
        cin, cout, kernel, stride, size = shape
        weight = channels_last(torch.randn(cout, cin, kernel, kernel))
        for B, T in BATCHES:
            for spikes in (True, False):
                x = torch.randn(T * B, cin, size, size)
                x = channels_last((x > 0.5).float() if spikes else x)
                folded = F.conv2d(x, weight, stride=stride, padding=kernel // 2)
                steps = [F.conv2d(channels_last(x_t), weight, stride=stride, padding=kernel // 2) for x_t in x.split(B)]
                cases += 1
                if not torch.equal(folded, torch.cat(steps)):
                    found.append({"shape": shape, "B": B, "T": T, "spikes": spikes})
    return found, cases


def network(name, batch):
    """Closures for one inference, folded and step by step."""
    model = iso.create_model(name, T=4, **MODELS[name]).eval()
    x = torch.randn(batch, 3, 32, 32)

    def folded():
        model.training = True  # time is folded; norms and head stay in eval
        with torch.no_grad():
            model(x)

    def stepwise():
        model.training = False
        with torch.no_grad():
            model._step_by_step(x.unsqueeze(0), 4, model._logits)

    return {"folded": folded, "stepwise": stepwise}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=15)
    repeats = parser.parse_args().repeats
    keep_freed_memory()
    torch.manual_seed(0)
    with torch.no_grad():
        found, cases = differing_bits()
    print(
        f"other bits in {len(found)} of {cases} cases; batch sizes among them: {sorted({case['B'] for case in found})}"
    )
    result = {"header": header("python benchmarks/stepwise.py"), "cases": cases, "differing": found, "rows": []}
    for name in MODELS:
        for batch in (1, 32):
            times = interleaved(network(name, batch), repeats)
            ratio = times["stepwise"]["median"] / times["folded"]["median"]
            result["rows"].append({"model": name, "batch": batch, "stepwise_to_folded": ratio, "seconds": times})
            print(f"{name}, T=4, batch {batch}: step by step takes {ratio:.2f}x the folded time")
    save("stepwise", result)


if __name__ == "__main__":
    main()

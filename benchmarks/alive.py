"""What is alive at the moment of a training step at which most is, in mode "leanest".

    python benchmarks/alive.py

The networks of `isospike bench --suite cpu` at batch 32, T=4, 32x32, as the planner of memory sees their tensors: what
parameters take, and everything else by its size.
"""

from collections import Counter
from itertools import accumulate

import isospike as iso
from common import header, save
from isospike.train import plan

BATCH, SIZE, T, LARGE = 32, 32, 4, 1e6
MODELS = {"ms_resnet20": {}, "sew_resnet20": {}, "ms_resnet18": {"stem": "cifar", "num_classes": 10}}


def at_peak(lives):
    """Sizes of the tensors that are alive then."""
    changes = [lives.sizes[number] if number >= 0 else -lives.sizes[~number] for number in lives.order]
    held = list(accumulate(changes))
    until = lives.order[: held.index(max(held)) + 1]
    ended = {~number for number in until if number < 0}
    return [lives.sizes[number] for number in until if number >= 0 and number not in ended]


def main():
    found = {}
    for name, options in MODELS.items():
        model = iso.create_model(name, T=T, **options).train()
        model.memory = "leanest"
        sizes = at_peak(plan.lives_of_a_step(model, BATCH, SIZE, None, None))
        tensors = Counter(size for size in sizes if size >= LARGE)
        found[name] = {
            "parameters_mb": sum(p.nbytes for p in model.parameters()) / 1e6,
            "alive_mb": sum(sizes) / 1e6,
            "tensors": [[count, size / 1e6] for size, count in sorted(tensors.items(), reverse=True)],
            "smaller_mb": sum(size for size in sizes if size < LARGE) / 1e6,
        }
        parts = " + ".join(f"{count} x {mb:.1f}" for count, mb in found[name]["tensors"])
        print(f"{name}: {', '.join(f'{value:.1f} {key}' for key, value in found[name].items() if key != 'tensors')}")
        print(f"  {parts}")
    save("alive", {"header": header("python benchmarks/alive.py"), "networks": found})


if __name__ == "__main__":
    main()

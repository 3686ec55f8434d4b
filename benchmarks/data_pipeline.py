"""Images per second of the data pipeline alone, on one core, after the first pass.

python benchmarks/data_pipeline.py --data-dir CIFAR10
"""

import argparse
import time

import torch

from common import header, save, summary
from isospike.data import Augment, AugmentSpec, Loader, load_dataset
from isospike.data.cifar import CifarData
from isospike.data.policy import AutoAugmentSpec, RandAugmentSpec

WAYS = {
    "normalise": AugmentSpec(),
    "crop, flip": AugmentSpec(crop=4, flip=True),
    "crop, flip, cutout": AugmentSpec(crop=4, flip=True, cutout=16),
    "crop, flip, mixup or cutmix": AugmentSpec(crop=4, flip=True, mixup=0.2, cutmix=1.0),
    "crop, flip, RandAugment": AugmentSpec(crop=4, flip=True, policy=RandAugmentSpec(kind="randaugment")),
    "crop, flip, AutoAugment": AugmentSpec(
        crop=4, flip=True, policy=AutoAugmentSpec(kind="autoaugment", table="cifar10")
    ),
}


def rate(loader, augment, epoch):
    """Images per second over at most three seconds of an epoch."""
    began, images = time.perf_counter(), 0
    for batch in loader.epoch(epoch):
        augment.train(batch.images, batch.labels, batch.seed)
        images += len(batch.labels)
        if time.perf_counter() - began > 3:
            break
    return images / (time.perf_counter() - began)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    began = time.perf_counter()
    data = load_dataset(CifarData(kind="cifar10", dir=arguments.data_dir))
    first_pass = time.perf_counter() - began
    result = {"header": header("python benchmarks/data_pipeline.py --data-dir CIFAR10"), "note": data.note}
    result |= {"first_pass_s": first_pass, "batch": 128, "rows": []}
    print(f"first pass (decoding of {len(data.train) + len(data.test):,} images): {first_pass:.1f} s")
    loader = Loader(data.train, 128, shuffle=True)
    rates = {name: [] for name in WAYS}
    for repeat in range(arguments.repeats + 1):
        for name, spec in WAYS.items():
            found = rate(loader, Augment(spec, data.mean, data.std, 10), repeat)
            if repeat:  # the first warms up
                rates[name].append(found)
    for name, values in rates.items():
        result["rows"].append({"augmentation": name, "images_per_s": summary(values)})
        print(f"{name}: {summary(values)['median']:,.0f} images/s")
    save("data_pipeline", result)


if __name__ == "__main__":
    main()

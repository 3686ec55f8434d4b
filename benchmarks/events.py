"""Events binned per second, and recordings per second out of the cache, on one core.

python benchmarks/events.py

Seconds are those of the processor, so that other work on the machine counts for little: there is one thread, and it
waits for nothing.
"""

import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from common import header, interleaved, save, summary
from isospike.data import Augment, AugmentSpec, FrameStacks, Loader
from isospike.events import Events, bins_of_count, bins_of_time, integrate
from isospike.events.cache import cached_frames

# Events, width and height of the sensor, frames.
RECORDINGS = {
    "N-MNIST's size": (4_000, (34, 34), 10),
    "CIFAR10-DVS's size": (200_000, (128, 128), 10),
    "5 million of a DVS128": (5_000_000, (128, 128), 16),
    "5 million of a megapixel": (5_000_000, (1280, 720), 10),
}
WAYS = {"by count": bins_of_count, "by time": bins_of_time}
IN_CACHE, BATCH = 256, 16


def random_events(count, sensor, rng):
    """Evenly over the sensor, which is the hardest for a cache."""
    x, y = (rng.integers(0, side, count) for side in sensor)
    return Events(np.sort(rng.integers(0, 1_300_000, count)), x, y, rng.integers(0, 2, count), sensor)


def bin_of(events, way, T):
    return lambda: integrate(events, WAYS[way](events, T))


def binning(rng):
    rows = []
    for name, (count, sensor, T) in RECORDINGS.items():
        events = random_events(count, sensor, rng)
        seconds = interleaved({way: bin_of(events, way, T) for way in WAYS}, repeats=7, clock=time.process_time)
        for way, found in seconds.items():
            rows.append({"recording": name, "way": way, "events_per_s": count / found["median"], "seconds": found})
            print(f"{name}, {way}: {count / found['median'] / 1e6:.0f} million events/s")
    return rows


def loading(rng):
    """Batches from the cache, augmented, of recordings of CIFAR10-DVS's size."""
    count, sensor, T = RECORDINGS["CIFAR10-DVS's size"]
    events = [random_events(count, sensor, rng) for _ in range(8)]
    stacks = [integrate(one, bins_of_count(one, T)) for one in events]
    rates = []
    with tempfile.TemporaryDirectory() as folder:
        frames = cached_frames(Path(folder), "0" * 64, lambda: ((n, stacks[n % 8]) for n in range(IN_CACHE)))
        split = FrameStacks(frames, torch.arange(IN_CACHE), torch.arange(IN_CACHE) % 10)
        augment = Augment(AugmentSpec(flip=True, roll=5), (0.0, 0.0), (1 / 255, 1 / 255), 10)
        for epoch in range(8):
            began = time.process_time()
            for batch in Loader(split, BATCH, shuffle=True).epoch(epoch):
                augment.train(batch.images, batch.labels, batch.seed)
            rates.append(IN_CACHE / (time.process_time() - began))
    print(f"loader, flip and roll: {summary(rates[1:])['median']:.0f} recordings/s")
    return summary(rates[1:])  # the first warms up


def main():
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    result = {"header": header("python benchmarks/events.py"), "binning": binning(rng)}
    save("events", {**result, "loader": {"batch": BATCH, "recordings_per_s": loading(rng)}})


if __name__ == "__main__":
    main()

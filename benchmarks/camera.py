"""Simulated events of the digits beside real recordings of digits, and recordings simulated per second.

python benchmarks/camera.py [--recordings FOLDER]

The folder holds N-MNIST's files (.bin or .bs2), or archives of them.
"""

import argparse
import time
from pathlib import Path

import torch

from common import header, save, summary
from isospike.data.digits import DigitsData
from isospike.data.simulated_camera import AT_ONCE, SimulatedCameraData
from isospike.events import decode
from isospike.events.files import contents, list_files

SIDE = 34  # pixels, as N-MNIST's
NAMES = (".bin", ".bs2")


def facts(name, recordings):
    """Events per pixel of each recording, and the share of all that are brighter."""
    counts = [len(events) / (events.sensor[0] * events.sensor[1]) for events in recordings]
    brighter = sum(int(events.p.sum()) for events in recordings) / sum(map(len, recordings))
    row = {"recordings": name, "number": len(recordings), "brighter": brighter, "events_per_pixel": summary(counts)}
    row["mean_events_per_pixel"] = sum(counts) / len(counts)
    print(f"{name}: {len(counts)} recordings, {sum(counts) / len(counts):.2f} events/pixel, {brighter:.1%} brighter")
    return row


def simulated(motion):
    """The test images of the digits, and the rates at which batches of them were recorded."""
    images = DigitsData(kind="digits", size=SIDE)
    camera = SimulatedCameraData(kind="simulated_camera", images=images, motion=motion)
    recordings, rates = [], []
    for part in images.load().test.images.split(AT_ONCE):
        began = time.perf_counter()
        recordings += camera.record(part, len(recordings))
        rates.append(len(part) / (time.perf_counter() - began))
    row = {**facts(f"simulated, {motion}", recordings), "recordings_per_s": summary(rates)}
    print(f"  {row['recordings_per_s']['median']:.0f} recordings/s")
    return row


def real(folder):
    files = [file for file in list_files(folder) if file.name.endswith(NAMES)]
    found = [decode(content, str(file), format="bits40", sensor=(SIDE, SIDE)) for file, content in contents(files)]
    return facts("N-MNIST", found)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--recordings", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = [simulated(motion) for motion in ("saccades", "walk")]
    if arguments.recordings:
        rows.append(real(arguments.recordings))
    save("camera", {"header": header("python benchmarks/camera.py --recordings FOLDER"), "rows": rows})


if __name__ == "__main__":
    main()

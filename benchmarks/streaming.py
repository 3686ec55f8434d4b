"""How long a decision about a stream of events takes, what it holds, and how fast files are read part by part.

Processor time, as other work may run on the machine.

python benchmarks/streaming.py
"""

import io
import resource
import time

import numpy as np
import torch

import isospike as iso
from common import header, save, summary
from isospike.events import read_pieces

SENSOR, WINDOW, RATE = (128, 128), 10_000, 1_000_000  # pixels, microseconds, events per second
NETWORKS = {"ms_resnet8": (34, 10), "ms_resnet20": (48, 10)}  # height and width of its frames, T
WINDOWS, EVENTS = 100, 4_000_000


def parts(seconds, rng, every=1_000):
    """Events as a camera sends them, a part every so many microseconds."""
    count = RATE * every // 1_000_000
    for start in range(0, int(seconds * 1e6), every):
        t = start + np.sort(rng.integers(0, every, count))
        yield t, rng.integers(0, SENSOR[0], count), rng.integers(0, SENSOR[1], count), rng.integers(0, 2, count)


def stream_of(name, compiled):
    size, T = NETWORKS[name]
    model = iso.create_model(name, in_channels=2, num_classes=10, T=T)
    model.inputs = iso.Inputs(size, (0.0, 0.0), (1 / 255, 1 / 255), T=T)
    return iso.Stream(model, window=WINDOW, sensor=SENSOR, compiled=compiled)


def latencies(rng):
    """Of every network, as it is and compiled, the processor time of each decision."""
    rows = []
    for name, (size, _) in NETWORKS.items():
        for compiled in (False, True):
            stream, seconds = stream_of(name, compiled), []
            for part in parts((WINDOWS + 10) * WINDOW / 1e6, rng):
                decisions, began = stream(part), time.process_time()
                if next(decisions, None) is not None:
                    seconds.append(time.process_time() - began)
            row = {"network": name, "size": size, "compiled": compiled, "cpu_seconds": summary(seconds[10:])}
            rows.append(row)
            print(f"{name}, {size} pixels, compiled={compiled}: {1e3 * row['cpu_seconds']['median']:.2f} ms")
    return rows


def memory(rng):
    """Megabytes that the process takes more for a recording that is 20 times as long."""
    stream, peaks = stream_of("ms_resnet8", True), []
    for seconds in (0.5, 10):
        for _ in stream.run(parts(seconds, rng)):
            pass
        peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3)
    print(f"memory: {peaks[1] - peaks[0]:.1f} MB more for 10 s than for 0.5 s")
    return {"seconds": [0.5, 10], "peak_mb": peaks}


def contents(rng):
    """The same events in the formats that are a row of words."""
    t = np.sort(rng.integers(0, 2**22, EVENTS)).astype("<u4")
    x, y, p = (rng.integers(0, side, EVENTS).astype("<u4") for side in (*SENSOR, 2))
    dat = np.stack([t, x | y << 14 | p << 28], axis=1).astype("<u4").tobytes()
    aedat = np.stack([y << 8 | (127 - x) << 1 | 1 - p, t], axis=1).astype(">u4").tobytes()
    bits = np.stack([x, y, p << 7 | t >> 16, t >> 8 & 255, t & 255], axis=1).astype(np.uint8).tobytes()
    evt2 = np.stack([0x8 << 28 | t >> 6, p << 28 | (t & 63) << 22 | x << 11 | y], axis=1).astype("<u4").tobytes()
    return {
        "dat": b"% Version 2\n% Width 128\n% Height 128\n\x0c\x08" + dat,
        "aedat2": b"#!AER-DAT2.0\r\n# AEChip: DVS128\r\n" + aedat,
        "bits40": bits,
        "raw": b"% evt 2.0\n% geometry 128x128\n% end\n" + evt2,
    }


def reading(rng):
    """Events per second of processor time that come out of ``read_pieces``, of each format."""
    rows = []
    for format, content in contents(rng).items():
        seconds = []
        for _ in range(6):
            began = time.process_time()
            assert sum(map(len, read_pieces(io.BytesIO(content), format=format))) == EVENTS
            seconds.append(time.process_time() - began)
        found = summary(seconds[1:])
        rows.append({"format": format, "events_per_s": EVENTS / found["median"], "cpu_seconds": found})
        print(f"{format}: {EVENTS / found['median'] / 1e6:.1f} million events/s")
    return rows


def main():
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    result = {"header": header("python benchmarks/streaming.py"), "memory": memory(rng), "latency": latencies(rng)}
    save("streaming", {**result, "reading": reading(rng)})


if __name__ == "__main__":
    main()

"""Readers of images, labels and recordings that are given damaged files."""

import io
import pickle
import tarfile
import zipfile
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

import isospike as iso
from event_files import WRITERS, aedat31, some_events
from fuzz_subject import Subject, in_bytes
from isospike.data import Loader, load_dataset
from isospike.data.cifar import CIFAR10, CifarData
from isospike.data.dvs_gesture import DVSGestureData
from isospike.data.folder import FolderData
from isospike.data.images import read_image
from mutations import damaged_bytes

# Images and labels ---------------------------------------------------------------------------------------------------


def some_pixels(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def make_pickles(folder: Path) -> list[Path]:
    paths = [folder / name for name in (*CIFAR10.pickle_files["train"], *CIFAR10.pickle_files["test"])]
    for protocol, path in enumerate(paths):
        content = {b"data": some_pixels(10, 3072), b"labels": list(range(10)), b"names": ["a", ("b", 1.5, None)]}
        path.write_bytes(pickle.dumps(content, protocol=protocol % 6))
    return paths


def in_instructions(path: Path, rng: Random) -> None:
    """Not in the pixels, where most bytes are, and which say nothing."""
    content = path.read_bytes()
    start = content.find(some_pixels(10, 3072).tobytes()[:8])
    end = start + 30720
    if start < 0 or rng.random() < 0.2:
        in_bytes(path, rng)
    elif rng.random() < 0.5:
        path.write_bytes(damaged_bytes(content[:start], rng) + content[start:])
    else:
        path.write_bytes(content[:end] + damaged_bytes(content[end:], rng))


def read_cifar(folder: Path, damaged: Path) -> object:
    return load_dataset(CifarData(kind="cifar10", dir=str(folder)))


def encoded(pixels: np.ndarray, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


def make_parquet(folder: Path) -> list[Path]:
    image = encoded(np.full((32, 32, 3), 9, np.uint8), "PNG")
    table = pa.table({"img": [{"bytes": image, "path": None}] * 10, "label": list(range(10))})
    paths = [folder / f"{split}-0.parquet" for split in ("train", "test")]
    for path, compression in zip(paths, ("snappy", "zstd"), strict=True):
        pq.write_table(table, path, compression=compression)
    return paths


KINDS = {
    "PNG": "png", "JPEG": "jpg", "GIF": "gif", "BMP": "bmp", "PPM": "ppm", "TIFF": "tif", "WEBP": "webp",
    "JPEG2000": "jp2",
}  # fmt: skip


def make_images(folder: Path) -> list[Path]:
    exif = Image.Exif()
    exif[0x0112] = 6
    paths = []
    for kind, suffix in KINDS.items():
        for name, pixels in {"grey": some_pixels(9, 11), "colour": some_pixels(12, 8, 3)}.items():
            paths.append(folder / f"{name}.{suffix}")
            paths[-1].write_bytes(encoded(pixels, kind, **({} if kind in ("BMP", "PPM", "GIF") else {"exif": exif})))
    for name, pixels in {"deep": some_pixels(9, 11).astype(np.uint16) * 200, "alpha": some_pixels(9, 11, 4)}.items():
        for suffix in ("png", "tif"):
            paths.append(folder / f"{name}.{suffix}")
            Image.fromarray(pixels).save(paths[-1])
    return paths


def read_one_image(folder: Path, damaged: Path) -> object:
    return read_image(damaged, str(damaged)), read_image(damaged.read_bytes(), str(damaged), channels=1)


def make_folders(folder: Path) -> list[Path]:
    paths = [folder / split / name / "0.png" for split in ("train", "val") for name in "ab"]
    for path in paths:
        path.parent.mkdir(parents=True)
        path.write_bytes(encoded(some_pixels(20, 20, 3), "PNG"))
    return paths


def read_folders(folder: Path, damaged: Path) -> object:
    data = load_dataset(FolderData(kind="folder", dir=str(folder), size=8, test_resize=8, workers=0))
    return [list(Loader(split, 2, shuffle=False).epoch(0)) for split in (data.train, data.test)]


# Recordings of event cameras -----------------------------------------------------------------------------------------


def make_recordings(folder: Path) -> list[Path]:
    for kind, (format, write, _) in WRITERS.items():
        (folder / f"{kind}.{format}").write_bytes(write(some_events(200)))
    return sorted(folder.iterdir())


def read_recording(folder: Path, damaged: Path) -> object:
    """By its content, and as what its name says."""
    format = "hdf5" if damaged.suffix == ".h5" else damaged.suffix[1:]
    sound = [iso.events.read(damaged, format=format, sort=True)]
    return [*sound, iso.events.read(damaged, sensor=sound[0].sensor)]


def make_event_set(folder: Path) -> list[Path]:
    """A gesture set in pieces: the lists unpacked, one file of events in a zip and one in a tar."""
    events = [(t + n, x, y, p) for n, (t, x, y, p) in enumerate(some_events(440))]
    edges = [events[n][0] for n in range(0, 440, 39)]
    rows = [f"{number},{start},{end}" for number, (start, end) in enumerate(pairwise(edges), 1)]
    for split, user in {"train": "user01", "test": "user24"}.items():
        (folder / f"trials_to_{split}.txt").write_text(f"{user}_led.aedat\n")
        (folder / f"{user}_led_labels.csv").write_text("\n".join(["class,start,end", *rows]))
    with zipfile.ZipFile(folder / "a.zip", "w") as packed:
        packed.writestr("user01_led.aedat", aedat31(events))
    (folder / "user24_led.aedat").write_bytes(aedat31([(t, y, x, p) for t, x, y, p in events]))
    with tarfile.open(folder / "b.tar.gz", "w:gz") as archive:
        archive.add(folder / "user24_led.aedat", "user24_led.aedat")
    (folder / "user24_led.aedat").unlink()
    return sorted(folder.iterdir())


def read_event_set(folder: Path, damaged: Path) -> object:
    data = load_dataset(DVSGestureData(kind="dvs_gesture", dir=str(folder), T=2, size=16, cache=str(folder / "cache")))
    return [list(Loader(split, 4, shuffle=False).epoch(0)) for split in (data.train, data.test)]


def make_hdf5(folder: Path) -> list[Path]:
    import h5py

    with h5py.File(folder / "recording.h5", "w") as file:
        for name, values in zip("txyp", zip(*some_events(200), strict=True), strict=True):
            file.create_dataset(f"events/{name}", data=values, chunks=True, compression="gzip")
        file["t_offset"] = 3
    return [folder / "recording.h5"]


DATA = {
    "pickles": Subject(make_pickles, in_instructions, read_cifar),
    "parquet": Subject(make_parquet, in_bytes, read_cifar),
    "images": Subject(make_images, in_bytes, read_one_image),
    "folders": Subject(make_folders, in_bytes, read_folders),
    "event set": Subject(make_event_set, in_bytes, read_event_set),
    "recordings": Subject(make_recordings, in_bytes, read_recording),
}
if find_spec("h5py") and find_spec("hdf5plugin"):
    DATA["hdf5"] = Subject(make_hdf5, in_bytes, read_recording)

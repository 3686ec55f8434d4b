"""Sources of images and what they say when a file is not what it should be."""

import io
import os
import pickle
import struct
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from isospike.data import Loader, load_dataset
from isospike.data.cifar import CIFAR10, CIFAR100, CifarData
from isospike.data.digits import DigitsData
from isospike.data.folder import FolderData
from isospike.data.synthetic import SyntheticData
from isospike.errors import DataError

RNG = np.random.default_rng(0)


def encoded(size=32, kind="PNG") -> bytes:
    pixels = RNG.integers(0, 256, (size, size, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def pixels(images):
    return images.images.permute(0, 2, 3, 1).numpy()


class Python2Pickler(pickle._Pickler):
    """Writes text and bytes as Python 2 wrote its strings, as in the original files."""

    def save_string(self, value):
        raw = value.encode("latin1") if isinstance(value, str) else value
        self.write(b"T" + struct.pack("<i", len(raw)) + raw)
        self.memoize(value)

    dispatch: ClassVar = {**pickle._Pickler.dispatch, str: save_string, bytes: save_string}


def python2_pickle(content) -> bytes:
    file = io.BytesIO()
    Python2Pickler(file, protocol=2).dump(content)
    return file.getvalue()


def write_pickles(root, *, labels=None, data=None, dumps=python2_pickle):
    """CIFAR-10's original files: per batch a mapping with bytes keys."""
    folder = root / CIFAR10.pickle_folder
    folder.mkdir(parents=True)
    for name in (*CIFAR10.pickle_files["train"], *CIFAR10.pickle_files["test"]):
        batch = RNG.integers(0, 256, (20, 3072), dtype=np.uint8) if data is None else data
        content = {b"data": batch, b"labels": list(range(10)) * 2 if labels is None else labels}
        (folder / name).write_bytes(dumps(content))
    return folder


def write_parquet(root, *, image="img", label="label", labels=None, kind="PNG", classes=10):
    root.mkdir(exist_ok=True)
    labels = list(range(classes)) * 2 if labels is None else labels
    files = [encoded(kind=kind) for _ in labels]
    table = pa.table({image: [{"bytes": file, "path": None} for file in files], label: labels})
    for split in ("train", "test"):
        pq.write_table(table, root / f"{split}-00000-of-00001.parquet")
    return files


def write_folders(root, names, *, size=32, splits=("train", "test"), images=2, suffix=".png"):
    for split in splits:
        for name in names:
            (root / split / name).mkdir(parents=True)
            for number in range(images):
                kind = "JPEG" if suffix == ".jpg" else "PNG"
                (root / split / name / f"{number}{suffix}").write_bytes(encoded(size, kind))


def cifar10(root, **options):
    return load_dataset(CifarData(kind="cifar10", dir=str(root), **options))


def test_digits_are_split_by_class_and_scaled():
    data = load_dataset(DigitsData(kind="digits", size=16))
    assert (len(data.train), len(data.test)) == (1442, 355)
    assert data.train.images.shape == (1442, 1, 16, 16)
    share = torch.bincount(data.test.labels) / (torch.bincount(data.test.labels) + torch.bincount(data.train.labels))
    assert (share > 0.19).all()
    assert (share <= 0.2).all()
    raw = load_dataset(DigitsData(kind="digits"))
    assert raw.train.images.unique().numel() == 17
    assert raw.train.images.max() == 255
    normalised = (raw.train.images / 255 - raw.mean[0]) / raw.std[0]
    torch.testing.assert_close((normalised.mean().item(), normalised.std().item()), (0.0, 1.0), atol=1e-5, rtol=0)


def test_synthetic_images_are_the_same_at_every_call():
    spec = SyntheticData(kind="synthetic", classes=3, channels=2, size=12, train=9, test=6)
    a, b = load_dataset(spec), load_dataset(spec)
    assert torch.equal(a.train.images, b.train.images)
    assert a.train.images.shape == (9, 2, 12, 12)
    assert a.test.labels.tolist() == [0, 1, 2, 0, 1, 2]
    assert not torch.equal(a.train.images[:6], a.test.images)


@pytest.mark.parametrize("dumps", [python2_pickle, lambda c: pickle.dumps(c, protocol=2), pickle.dumps])
def test_cifar_pickles(tmp_path, dumps):
    folder = write_pickles(tmp_path, dumps=dumps)
    for root in (tmp_path, folder):
        data = cifar10(root)
        assert (len(data.train), len(data.test), data.note) == (100, 20, "")
        with (folder / "data_batch_2").open("rb") as file:
            first = pickle.load(file, encoding="bytes")[b"data"][0].reshape(3, 32, 32)
        assert torch.equal(data.train.images[20], torch.from_numpy(first))


def test_cifar100_pickles_take_the_fine_labels(tmp_path):
    folder = tmp_path / CIFAR100.pickle_folder
    folder.mkdir()
    content = {
        b"data": RNG.integers(0, 256, (100, 3072), dtype=np.uint8),
        b"fine_labels": list(range(100)),
        b"coarse_labels": [0] * 100,
    }
    for name in ("train", "test"):
        (folder / name).write_bytes(pickle.dumps(content, protocol=2))
    data = load_dataset(CifarData(kind="cifar100", dir=str(tmp_path)))
    assert data.train.labels.tolist() == list(range(100))
    assert len(data.classes) == 100


@pytest.mark.parametrize(("image", "label"), [("img", "label"), ("image", "labels")])
@pytest.mark.parametrize(("kind", "note"), [("PNG", ""), ("JPEG", "JPEG copy")])
def test_cifar_parquet(tmp_path, image, label, kind, note):
    files = write_parquet(tmp_path / "deep", image=image, label=label, kind=kind)
    data = cifar10(tmp_path)
    assert data.note == note
    expected = np.stack([np.asarray(Image.open(io.BytesIO(file))) for file in files])
    assert np.array_equal(pixels(data.train), expected)


def test_cifar100_parquet_takes_the_fine_labels(tmp_path):
    write_parquet(tmp_path, label="fine_label", classes=100)
    data = load_dataset(CifarData(kind="cifar100", dir=str(tmp_path)))
    assert data.train.labels.max() == 99


@pytest.mark.parametrize("names", [CIFAR10.classes, [str(n) for n in range(10)]], ids=["names", "numbers"])
def test_cifar_folders(tmp_path, names):
    write_folders(tmp_path, names)
    data = cifar10(tmp_path)
    assert data.train.labels.tolist() == [n for n in range(10) for _ in range(2)]
    stored = np.asarray(Image.open(tmp_path / "train" / names[3] / "1.png"))
    assert np.array_equal(pixels(data.train)[7], stored)


def test_decoding_by_workers_changes_nothing(tmp_path):
    write_parquet(tmp_path)
    assert torch.equal(cifar10(tmp_path, workers=0).train.images, cifar10(tmp_path, workers=2).train.images)


def folder_spec(root, **options):
    return FolderData(kind="folder", dir=str(root), size=24, **{"test_resize": 28, "workers": 0, **options})


def test_image_folders(tmp_path):
    write_folders(tmp_path, ["cat", "ant"], size=40, splits=("train", "val"), images=3, suffix=".jpg")
    data = load_dataset(folder_spec(tmp_path))
    assert data.classes == ("ant", "cat")
    assert (len(data.train), len(data.test)) == (6, 6)
    (batch,) = Loader(data.test, 8, shuffle=False).epoch(0)
    assert batch.images.shape == (6, 3, 24, 24)
    centre = Image.open(tmp_path / "val" / "ant" / "0.jpg").resize((28, 28), Image.Resampling.BILINEAR)
    assert np.array_equal(batch.images[0].permute(1, 2, 0).numpy(), np.asarray(centre.crop((2, 2, 26, 26))))


def test_image_folders_are_tested_at_their_own_size(tmp_path):
    write_folders(tmp_path, ["cat", "ant"], size=64, splits=("train", "val"), images=3)
    data = load_dataset(folder_spec(tmp_path, test_resize=40, test_size=36))
    assert (data.size, data.test_size, data.test_resize) == (24, 36, 40)
    (trained,) = Loader(data.train, 6, shuffle=True).epoch(0)
    (tested,) = Loader(data.test, 6, shuffle=False).epoch(0)
    assert (trained.images.shape, tested.images.shape) == ((6, 3, 24, 24), (6, 3, 36, 36))
    centre = Image.open(tmp_path / "val" / "ant" / "0.png").resize((40, 40), Image.Resampling.BILINEAR)
    assert np.array_equal(tested.images[0].permute(1, 2, 0).numpy(), np.asarray(centre.crop((2, 2, 38, 38))))


@pytest.mark.parametrize("workers", [1, 2])
def test_random_crops_depend_on_seed_epoch_and_image_alone(tmp_path, workers):
    write_folders(tmp_path, ["cat", "ant"], size=40, splits=("train", "val"), images=6)
    alone = Loader(load_dataset(folder_spec(tmp_path)).train, 4, shuffle=True, seed=3)
    several = Loader(load_dataset(folder_spec(tmp_path, workers=workers)).train, 4, shuffle=True, seed=3)
    first = [batch.images for batch in alone.epoch(1)]
    assert all(torch.equal(a, b.images) for a, b in zip(first, several.epoch(1), strict=True))
    assert all(torch.equal(a, b.images) for a, b in zip(first[1:], several.epoch(1, start=1), strict=True))
    assert not torch.equal(first[0], next(alone.epoch(2)).images)


@pytest.mark.parametrize("shape", [(40, 60), (60, 40), (25, 25), (200, 10)], ids=str)
def test_crops_of_any_shape_come_out_square(shape):
    from isospike.data.decode import CentreCrop, RandomResizedCrop

    image = Image.fromarray(RNG.integers(0, 256, (*shape, 3), dtype=np.uint8))
    assert CentreCrop(24, 28)(image).size == (24, 24)
    for seed in range(20):
        assert RandomResizedCrop(24, (0.08, 1.0))(image, np.random.default_rng(seed)).size == (24, 24)


class Runs:
    """What a hostile file would hold: unpickling it calls a function."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_hostile_pickle_runs_nothing(tmp_path):
    folder = write_pickles(tmp_path)
    proof = tmp_path / "proof"
    (folder / "data_batch_3").write_bytes(pickle.dumps({b"data": Runs(proof), b"labels": []}, protocol=2))
    with pytest.raises(DataError, match=r"data_batch_3 was not read as pickled arrays: it asks for posix.mkdir"):
        cifar10(tmp_path)
    assert not proof.exists()


def damage_pickle(root):
    folder = write_pickles(root)
    (folder / "data_batch_1").write_bytes((folder / "data_batch_1").read_bytes()[:500])


def damage_parquet(root):
    write_parquet(root)
    shard = root / "train-00000-of-00001.parquet"
    shard.write_bytes(shard.read_bytes()[:-400])


def truncated_image(root):
    write_folders(root, CIFAR10.classes)
    path = root / "train" / "cat" / "1.png"
    path.write_bytes(path.read_bytes()[:-900])


def no_image_at_all(root):
    write_folders(root, CIFAR10.classes)
    (root / "train" / "cat" / "1.png").write_text("hello")


def another_size(root):
    write_folders(root, CIFAR10.classes)
    (root / "train" / "dog" / "0.png").write_bytes(encoded(33))


def text_among_images(root):
    write_folders(root, CIFAR10.classes)
    (root / "test" / "dog" / "notes.txt").write_text("hello")


def empty_class(root):
    write_folders(root, CIFAR10.classes)
    for path in (root / "train" / "frog").iterdir():
        path.unlink()


def unknown_class(root):
    write_folders(root, CIFAR10.classes)
    (root / "test" / "unicorn").mkdir()


def missing_class(root):
    write_folders(root, CIFAR10.classes[:-1])


def only_training_files(root):
    write_parquet(root)
    (root / "test-00000-of-00001.parquet").unlink()


BROKEN = {
    damage_pickle: "data_batch_1 was not read as pickled arrays",
    lambda root: write_pickles(root, labels=[11] * 20): r"train\): image 0 has the label 11, labels run from 0 to 9",
    lambda root: write_pickles(root, labels=[-1] * 20): "has the label -1",
    lambda root: write_pickles(root, labels=[0, 1] * 10): "holds no image of class 'bird'",
    lambda root: write_pickles(root, labels=[0] * 3): "20 images of uint8 and 3 labels do not fit",
    lambda root: write_pickles(root, data=np.zeros((20, 7), np.uint8)): r"must hold 'data' \[N, 3072\] and labels",
    lambda root: write_pickles(root, data=np.zeros((20, 3072))): "20 images of float64",
    damage_parquet: "train-00000-of-00001.parquet cannot be read as parquet",
    only_training_files: "holds train-.*parquet but no test-",
    lambda root: write_parquet(root, image="picture"): "must have a column 'img' or 'image'.*it has picture, label",
    lambda root: write_parquet(root, labels=[3, 4]): "holds no image of class 'airplane'",
    lambda root: write_parquet(root, labels=[*range(10), 10]): "image 10 has the label 10",
    truncated_image: "cat/1.png cannot be read as an image .*is the file whole",
    no_image_at_all: "cat/1.png cannot be read as an image",
    another_size: "dog/0.png: an image of cifar10 is 33x33, not 32x32",
    text_among_images: "notes.txt is not an image; expected .bmp, .jpeg, .jpg",
    empty_class: "train holds no image of class 'frog'",
    unknown_class: "unicorn is not one of the 10 classes",
    missing_class: "class folder .*truck does not exist",
    lambda root: root.mkdir(exist_ok=True): "no cifar10 in .*which holds nothing: expected cifar-10-batches-py/",
    lambda root: (root / "val").mkdir(): "which holds val: expected",
}


@pytest.mark.parametrize("breaks", BROKEN, ids=lambda f: f.__name__)
@pytest.mark.parametrize("workers", [0, 1])
def test_broken_cifar_files_are_named(tmp_path, breaks, workers):
    breaks(tmp_path)
    with pytest.raises(DataError, match=BROKEN[breaks]) as raised:
        cifar10(tmp_path, workers=workers)
    assert "\n" not in str(raised.value)
    assert "Traceback" not in str(raised.value)


def test_a_truncated_photograph_is_named_when_its_turn_comes(tmp_path):
    write_folders(tmp_path, ["ant", "cat"], size=64, splits=("train", "val"), suffix=".jpg")
    path = tmp_path / "train" / "cat" / "0.jpg"
    path.write_bytes(path.read_bytes()[:1000])
    loader = Loader(load_dataset(folder_spec(tmp_path, workers=1)).train, 2, shuffle=True)
    with pytest.raises(DataError, match=r"cat/0.jpg cannot be read as an image"):
        list(loader.epoch(0))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda root: None, "the data folder .* does not exist"),
        (lambda root: root.mkdir(), r"must hold train/<class>/<image> and val/<class>/<image>, it holds nothing"),
        (lambda root: write_folders(root, ["ant", "cat"], splits=("train",)), "it holds train"),
        (lambda root: write_folders(root, ["ant"], splits=("train", "val")), "at least 2 classes, it holds ant"),
        (lambda root: write_folders(root, ["ant", "cat"], splits=("train", "val"), images=0), "holds no images"),
    ],
)
def test_broken_image_folders_are_named(tmp_path, make, message):
    make(tmp_path / "images")
    with pytest.raises(DataError, match=message):
        load_dataset(folder_spec(tmp_path / "images"))


@pytest.mark.parametrize("kind", ["cifar10", "cifar100"])
def test_a_data_set_on_disk_must_be_told_where(kind):
    with pytest.raises(DataError, match="name their folder with --data-dir"):
        load_dataset(CifarData(kind=kind))


@pytest.mark.data
def test_the_real_cifar10(real_data):
    data = cifar10(real_data / "cifar10")
    assert (len(data.train), len(data.test), data.note) == (50_000, 10_000, "JPEG copy")
    assert torch.bincount(data.train.labels).tolist() == [5000] * 10
    counts = torch.stack([torch.bincount(data.train.images[:, c].flatten(), minlength=256) for c in range(3)]).double()
    values, shares = torch.arange(256, dtype=torch.float64) / 255, counts / counts[0].sum()
    mean = shares @ values
    std = (shares @ values**2 - mean**2).sqrt()
    torch.testing.assert_close(mean, torch.tensor(data.mean, dtype=torch.float64), atol=2e-3, rtol=0)
    torch.testing.assert_close(std, torch.tensor(data.std, dtype=torch.float64), atol=6e-3, rtol=0)


@pytest.mark.data
def test_real_photographs(real_data, tmp_path):
    """A few images of each class of Imagenette through the ImageNet pipeline."""
    import tarfile

    wanted = {}
    with tarfile.open(real_data / "imagenette112.tar.xz") as archive:
        for member in archive:
            parts = member.name.split("/")
            if member.isfile() and parts[-1].endswith(".JPEG"):
                key = tuple(parts[-3:-1])
                if wanted.setdefault(key, 0) < 3:
                    wanted[key] += 1
                    target = tmp_path.joinpath(*parts[-3:])
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_bytes(archive.extractfile(member).read())
            if len(wanted) == 20 and min(wanted.values()) == 3:
                break
    data = load_dataset(FolderData(kind="folder", dir=str(tmp_path), size=96, test_resize=112, workers=1))
    assert len(data.classes) == 10
    for loader in (Loader(data.train, 15, shuffle=True), Loader(data.test, 15, shuffle=False)):
        for batch in loader.epoch(0):
            assert batch.images.shape == (15, 3, 96, 96)
            assert batch.images.float().std() > 30

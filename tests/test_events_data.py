"""Event data sets by their folders as downloaded."""

import io
import tarfile
import warnings
import zipfile

import numpy as np
import pytest
import torch
from pydantic import ValidationError

import event_files
from isospike.data import DATA, EventData, Loader, load_dataset
from isospike.data.class_folders import is_test
from isospike.data.recordings import on_square
from isospike.errors import DataError, IsospikeWarning
from isospike.events import Events, bins_of_count, integrate

CIFAR = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def some(seed, side=34, count=60):
    """Each at a time of its own, so that every part of them has a duration."""
    return [(t + n, x % side, y % side, p) for n, (t, x, y, p) in enumerate(event_files.some_events(count, seed))]


def slow(events):
    """The same over as long as a trial: a millisecond between neighbours."""
    return [(t + 1_000 * n, x, y, p) for n, (t, x, y, p) in enumerate(events)]


def nmnist():
    splits = {"Train": 2, "Test": 1}
    names = [
        f"{split}/{digit}/{n:05}.bin" for split, count in splits.items() for digit in range(10) for n in range(count)
    ]
    return {name: event_files.bits40(some(n)) for n, name in enumerate(names)}


def cifar10_dvs(of_each=11):
    names = [f"{name}/cifar10_{name}_{n}.aedat" for name in CIFAR for n in range(of_each)]
    return {name: event_files.aedat2_dvs128(slow(some(n))) for n, name in enumerate(names)}


def ncaltech101():
    names = [f"Caltech101/{name}/image_{n:04}.bin" for name in ("BACKGROUND_Google", "ant") for n in range(1, 11)]
    return {name: event_files.bits40(some(n, side=180)) for n, name in enumerate(names)}


def dvs_gesture():
    files = {}
    for n, user in enumerate(("user01_led", "user24_led")):
        events = slow(some(n, count=600))
        edges = [events[place][0] for place in np.linspace(0, 599, 12).astype(int)]
        rows = [f"{number},{start},{end}" for number, (start, end) in enumerate(zip(edges, edges[1:], strict=False), 1)]
        files[f"DvsGesture/{user}.aedat"] = event_files.aedat31(events)
        files[f"DvsGesture/{user}_labels.csv"] = "\n".join(["class,startTime_usec,endTime_usec", *rows]).encode()
    files["DvsGesture/trials_to_train.txt"] = b"user01_led.aedat\n"
    files["DvsGesture/trials_to_test.txt"] = b"user24_led.aedat\n"
    return files


LAYOUTS = {"nmnist": nmnist, "cifar10_dvs": cifar10_dvs, "ncaltech101": ncaltech101, "dvs_gesture": dvs_gesture}


def write(root, files):
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def load(kind, root, tmp_path, **options):
    return load_dataset(DATA[kind](kind=kind, dir=str(root), cache=str(tmp_path / "cache"), **options))


@pytest.fixture(params=LAYOUTS)
def kind(request):
    return request.param


@pytest.fixture
def root(tmp_path, kind):
    write(tmp_path / "data", LAYOUTS[kind]())
    return tmp_path / "data"


def test_every_row_of_recordings_has_a_layout():
    assert set(LAYOUTS) == {kind for kind in DATA if issubclass(DATA[kind], EventData)}


def test_a_folder_as_downloaded_gives_both_splits(kind, root, tmp_path):
    data = load(kind, root, tmp_path, T=3, size=32)
    assert (data.T, data.channels, data.size) == (3, 2, 32)
    counts = {"nmnist": (20, 10), "cifar10_dvs": (100, 10), "ncaltech101": (18, 2), "dvs_gesture": (11, 11)}
    assert (len(data.train), len(data.test)) == counts[kind]
    for split in (data.train, data.test):
        for batch in Loader(split, 8, shuffle=False).epoch(0):
            assert batch.images.shape == (3, len(batch.labels), 2, 32, 32)
            assert (batch.images.sum((0, 2, 3, 4)) > 0).all()


@pytest.mark.parametrize("pack", ["zip", "tar.gz"])
def test_archives_give_the_same_as_folders(kind, root, tmp_path, pack):
    packed = tmp_path / "packed"
    packed.mkdir()
    files = list(LAYOUTS[kind]().items())[::-1]  # in another order
    if pack == "zip":
        with zipfile.ZipFile(packed / "x.zip", "w") as archive:
            for name, content in files:
                archive.writestr(name, content)
    else:
        with tarfile.open(packed / "x.tar.gz", "w:gz") as archive:
            for name, content in files:
                info = tarfile.TarInfo(name)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    plain, unpacked = load(kind, root, tmp_path, T=2), load(kind, packed, tmp_path, T=2)
    for ours, theirs in ((plain.train, unpacked.train), (plain.test, unpacked.test)):
        assert (ours.labels == theirs.labels).all()
        order = [torch.arange(len(ours))]
        assert (next(ours.batches(order, 0)) == next(theirs.batches(order, 0))).all()


def test_another_option_or_content_gives_other_frames(kind, root, tmp_path):
    def frames(**options):
        return next(load(kind, root, tmp_path, **options).train.batches([torch.arange(5)], 0))

    first = frames(T=3, size=32)
    assert (frames(T=3, size=32) == first).all()
    assert frames(T=4, size=32).shape[0] == 4
    assert not (frames(T=3, size=32, bins="time") == first).all()
    name = next(name for name in LAYOUTS[kind]() if name.endswith((".bin", ".aedat")))
    events = slow(some(0, 180 if kind == "ncaltech101" else 34, 600 if kind == "dvs_gesture" else 60))
    inverted = [(t, x, y, 1 - p) for t, x, y, p in events]
    writer = {"bits40": event_files.bits40, "aedat2": event_files.aedat2_dvs128, "aedat3": event_files.aedat31}
    (root / name).write_bytes(writer[DATA[kind].format](inverted))
    assert (frames(T=3, size=32)[:, 0] == first[:, 0].flip(1)).all()


def test_frames_are_those_of_the_file(tmp_path):
    write(tmp_path / "data", nmnist())
    data = load("nmnist", tmp_path / "data", tmp_path, T=4)
    t, x, y, p = np.array(some(3)).T  # the second of digit 1
    events = Events(t, x, y, p, (34, 34))
    found = next(data.train.batches([torch.tensor([3])], 0))[:, 0]
    assert data.train.labels[3] == 1
    assert (found.numpy() == integrate(events, bins_of_count(events, 4))).all()


def test_trials_are_cut_by_their_times(tmp_path):
    write(tmp_path / "data", dvs_gesture())
    data = load("dvs_gesture", tmp_path / "data", tmp_path, T=1)
    t = np.array(slow(some(0, count=600)))[:, 0]
    edges = t[np.linspace(0, 599, 12).astype(int)]
    expected = [int(((t >= start) & (t < end)).sum()) for start, end in zip(edges, edges[1:], strict=False)]
    found = next(data.train.batches([torch.arange(11)], 0)).sum((0, 2, 3, 4)).tolist()
    assert found == expected
    assert data.train.labels.tolist() == list(range(11))


def test_splits_by_name_and_by_number():
    names = [f"cifar10_cat_{n}" for n in range(1000)]
    first = [name for name, test in zip(names, is_test(names, "first90"), strict=True) if test]
    assert len(first) == 100
    assert "cifar10_cat_99" in first
    assert "cifar10_cat_900" not in first  # the names are in alphabetical order
    last = [name for name, test in zip(names[::-1], is_test(names[::-1], "last100"), strict=True) if test]
    assert sorted(last) == sorted(names[900:])
    tet = [name for name, test in zip(names[::-1], is_test(names[::-1], "tet70"), strict=True) if not test]
    assert sorted(tet) == sorted(names[:700])


@pytest.mark.parametrize(("split", "train", "test"), [("first90", 100, 10), ("tet70", 70, 40)])
def test_a_split_is_what_the_run_says(tmp_path, split, train, test):
    write(tmp_path / "data", cifar10_dvs())
    data = load("cifar10_dvs", tmp_path / "data", tmp_path, split=split, T=2, size=8)
    assert (len(data.train), len(data.test)) == (train, test)
    assert data.train.labels.bincount().tolist() == [train // 10] * 10
    assert data.classes == CIFAR


def test_events_on_a_square():
    events = Events([1, 2, 3], [0, 239, 120], [0, 179, 90], [0, 1, 1], (240, 180))
    square = on_square(events, 48)
    assert square.sensor == (48, 48)
    assert square.x.tolist() == [0, 47, 24]
    assert square.y.tolist() == [6, 41, 24]
    assert on_square(events.on((240, 240)), 240).x is events.x


def test_a_folder_of_another_layout_says_what_is_expected_and_where_to_get_it(kind, tmp_path):
    row = DATA[kind]
    with pytest.raises(
        DataError, match="name the folder with --data-dir, which holds .* comes from https://"
    ) as refusal:
        row(kind=kind).load()
    assert row.layout in str(refusal.value)
    (tmp_path / "x").mkdir()
    (tmp_path / "x/other.txt").write_text("")
    with pytest.raises(DataError, match=r"x must hold .*, from https://.*; it holds other.txt"):
        load(kind, tmp_path / "x", tmp_path)


def test_one_recording_in_both_splits_is_named(tmp_path):
    files = nmnist()
    files["Test/3/00000.bin"] = files["Train/3/00001.bin"]
    write(tmp_path / "data", files)
    with pytest.raises(DataError, match=r"Test/3/00000.bin and .*Train/3/00001.bin are one recording, in training and"):
        load("nmnist", tmp_path / "data", tmp_path)


def test_a_set_that_is_unpacked_beside_its_archive_is_read_once(kind, root, tmp_path):
    (root / "download").mkdir()
    unpacked = root / "extract"
    unpacked.mkdir()
    with zipfile.ZipFile(root / "download/x.zip", "w") as archive:
        for name, content in LAYOUTS[kind]().items():
            archive.writestr(name, b"" if "." in name and name.endswith(("bin", "aedat")) else content)
    for path in list(root.iterdir()):
        if path.name not in ("download", "extract"):
            path.rename(unpacked / path.name)
    data = load(kind, root, tmp_path, T=2, size=8)  # a file of the archive would be refused: it is empty
    assert len(data.train) == {"nmnist": 20, "cifar10_dvs": 100, "ncaltech101": 18, "dvs_gesture": 11}[kind]


@pytest.mark.parametrize("inner", ["Train.zip", "Test.tar.gz"])
def test_an_archive_in_an_archive_is_named_until_it_is_unpacked(tmp_path, inner):
    """As some sites pack all that is to be downloaded at once."""
    folder = tmp_path / "data"
    write(folder, {name: content for name, content in nmnist().items() if not name.startswith(inner.partition(".")[0])})
    packed = io.BytesIO()
    parts = [(name, content) for name, content in nmnist().items() if name.startswith(inner.partition(".")[0])]
    if inner.endswith("zip"):
        with zipfile.ZipFile(packed, "w") as archive:
            for name, content in parts:
                archive.writestr(name, content)
    else:
        with tarfile.open(fileobj=packed, mode="w:gz") as archive:
            for name, content in parts:
                info = tarfile.TarInfo(name)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    with zipfile.ZipFile(folder / "all.zip", "w") as archive:
        archive.writestr(f"all/{inner}", packed.getvalue())
    with pytest.raises(DataError, match=rf"all.zip holds an archive, all/{inner}: unpack all.zip where it lies"):
        load("nmnist", folder, tmp_path)
    with zipfile.ZipFile(folder / "all.zip") as archive:
        archive.extractall(folder)
    data = load("nmnist", folder, tmp_path, T=2, size=8)
    assert (len(data.train), len(data.test)) == (20, 10)


def test_two_copies_of_a_set_are_named(kind, root, tmp_path):
    write(root / "old", LAYOUTS[kind]())
    with pytest.raises(DataError, match=r"/data/.* and .*/data/.* are both .*: leave one of them away"):
        load(kind, root, tmp_path)


def test_a_recording_in_the_folder_of_another_class_is_named(tmp_path):
    files = cifar10_dvs()
    write(tmp_path / "data", files | {"bird/cifar10_cat_11.aedat": files["cat/cifar10_cat_1.aedat"]})
    with pytest.raises(DataError, match=r"bird/cifar10_cat_11.aedat: its folder says the class 'bird' and its name 'c"):
        load("cifar10_dvs", tmp_path / "data", tmp_path)


def test_a_class_that_was_not_downloaded_is_named(tmp_path):
    files = {name: content for name, content in cifar10_dvs().items() if not name.startswith("dog")}
    write(tmp_path / "data", files)
    with pytest.raises(DataError, match=r"data for training holds no image of class 'dog'"):
        load("cifar10_dvs", tmp_path / "data", tmp_path)


def test_windows_cut_the_beginning_and_empty_frames_are_counted(tmp_path):
    write(tmp_path / "data", nmnist())
    windows = {"T": 4, "bins": "time", "window": 50, "stride": 25}
    data = load("nmnist", tmp_path / "data", tmp_path, **windows)
    found = next(data.train.batches([torch.tensor([3])], 0))[:, 0].sum((1, 2, 3)).tolist()
    t = np.array(some(3))[:, 0]
    starts = t[0] + np.arange(4) * 25
    assert found == [int(((t >= start) & (t < start + 50)).sum()) for start in starts]
    late = load("nmnist", tmp_path / "data", tmp_path, T=3, bins="time", window=50, stride=10_000_000)
    assert late.facts()["empty_frames"] == 60  # all but the first of each of 30 recordings
    with pytest.raises(ValidationError, match="stride=3 is between windows: it goes with a window"):
        load("nmnist", tmp_path / "data", tmp_path, stride=3)


def test_a_recording_that_is_too_short_is_named(tmp_path):
    files = nmnist()
    files["Train/3/00001.bin"] = event_files.bits40(some(7)[:5])
    write(tmp_path / "data", files)
    with pytest.raises(DataError, match=r"Train/3/00001.bin: a recording of 5 events is too short for 6 bins"):
        load("nmnist", tmp_path / "data", tmp_path, T=6)


def test_time_that_goes_back_is_sorted_and_said(tmp_path):
    files = nmnist()
    events = some(5)
    write(tmp_path / "data", files | {"Train/2/00001.bin": event_files.bits40([*events[1:], events[0]])})
    with pytest.warns(IsospikeWarning, match=r"time goes back in 1 of 30 files, the first of them .*Train/2/00001.bin"):
        turned = load("nmnist", tmp_path / "data", tmp_path)
    write(tmp_path / "data", files)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plain = load("nmnist", tmp_path / "data", tmp_path)
    order = [torch.tensor([5])]
    assert (next(turned.train.batches(order, 0)) == next(plain.train.batches(order, 0))).all()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("trials_to_test.txt", b"user07_lab.aedat", "trials_to_test.txt lists user07_lab.aedat, and there is no user"),
        ("user01_led_labels.csv", b"class,a,b\n12,1,2", "line 2 is no trial .class from 1 to 11, start, end.: 12,1,2"),
        ("user01_led_labels.csv", b"class,a,b\n1,3,3", "line 2 is no trial"),
        ("user01_led_labels.csv", b"class,a,b\nx", "line 2 is no trial"),
        ("user01_led_labels.csv", b"class,a,b\n1,90000000,90000009", "user01_led.aedat: its labels name a recording "
         "from 90,000,000 to 90,000,009 us, where it has no event: it runs from"),
        ("user01_led_labels.csv", b"class,a,b\n1,5000,90000000", "holds no image of class 'right_hand_wave'"),
    ],
)  # fmt: skip
def test_labels_that_are_none_are_named(tmp_path, name, content, message):
    write(tmp_path / "data", dvs_gesture() | {f"DvsGesture/{name}": content})
    with pytest.raises(DataError, match=message):
        load("dvs_gesture", tmp_path / "data", tmp_path, T=1)

"""The cache of frames, and files in the archives that they came in."""

import multiprocessing
import os
import pickle
import tarfile
import time
import zipfile

import numpy as np
import pytest

from isospike.errors import DataError
from isospike.events import cache
from isospike.events.cache import FrameFile, cached_frames, digests, key_of
from isospike.events.files import contents, list_files

KEY = key_of(["a", "b", "c"], {"T": 2})
STACKS = [np.full((2, 2, 3, 4), n, np.int32) for n in (7, 300, 70_000)]


def out_of_order():
    return [(n, STACKS[n]) for n in (2, 0, 1)]


def test_what_was_made_is_read_in_the_narrowest_integers(tmp_path):
    file = cached_frames(tmp_path, KEY, out_of_order)
    assert len(file) == 3
    assert [file[n].dtype for n in range(3)] == ["uint8", "uint16", "uint32"]
    assert all((file[n] == STACKS[n]).all() for n in range(3))


def test_frames_without_an_event_are_counted(tmp_path):
    quiet = np.zeros((2, 2, 3, 4), np.int32)
    half = quiet.copy()
    half[1, 0, 2, 3] = 1
    assert cached_frames(tmp_path, KEY, lambda: [(0, quiet), (1, half), (2, STACKS[0])]).empty == 3


def test_another_process_gets_the_file_and_not_its_content(tmp_path):
    file = cached_frames(tmp_path, KEY, out_of_order)
    sent = pickle.dumps(file)
    assert len(sent) < 1000
    assert all((pickle.loads(sent)[n] == STACKS[n]).all() for n in range(3))


def test_it_is_made_once_for_each_content_and_parameters(tmp_path):
    made = []

    def make():
        made.append(1)
        return out_of_order()

    for key in (KEY, KEY, key_of(["a", "b", "d"], {"T": 2}), key_of(["a", "b", "c"], {"T": 3}), KEY):
        cached_frames(tmp_path, key, make)
    assert len(made) == 3


def test_making_that_fails_leaves_nothing(tmp_path):
    def fail():
        yield 0, STACKS[0]
        raise DataError("no")

    with pytest.raises(DataError, match="^no$"):
        cached_frames(tmp_path, KEY, fail)
    assert not list(tmp_path.glob("*.frames*"))
    assert len(cached_frames(tmp_path, KEY, out_of_order)) == 3


@pytest.mark.parametrize("place", range(0, 400, 7))
def test_a_changed_byte_is_noticed(tmp_path, place):
    file = cached_frames(tmp_path, KEY, out_of_order)
    content = bytearray(file.path.read_bytes())
    content[place % len(content)] ^= 4
    file.path.write_bytes(content)
    with pytest.raises(DataError, match=r"cache .*\.frames .*delete it"):
        [FrameFile(file.path, KEY)[n] for n in range(3)]


@pytest.mark.parametrize("length", [0, 5, 100, -1])
def test_a_cache_that_was_cut_short_is_noticed(tmp_path, length):
    file = cached_frames(tmp_path, KEY, out_of_order)
    file.path.write_bytes(file.path.read_bytes()[:length])
    with pytest.raises(DataError, match=r"cache .*\.frames cannot be used .*: delete it"):
        FrameFile(file.path, KEY)


def test_a_cache_of_something_else_is_refused(tmp_path):
    file = cached_frames(tmp_path, KEY, out_of_order)
    with pytest.raises(DataError, match="holds other recordings than its name says"):
        FrameFile(file.path, key_of(["a"], {}))


def _build(folder, log):
    def make():
        with open(log, "a") as file:
            file.write(f"{os.getpid()}\n")
        time.sleep(0.3)
        return out_of_order()

    assert (cached_frames(folder, KEY, make)[1] == 300).all()


@pytest.mark.dist
def test_of_processes_that_want_the_same_one_makes_it(tmp_path):
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_build, args=(tmp_path, tmp_path / "log")) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    assert len((tmp_path / "log").read_text().split()) == 1


def test_digests_follow_the_content_and_are_kept(tmp_path, monkeypatch):
    path = tmp_path / "x"
    path.write_bytes(b"one")
    first = digests(tmp_path / "cache", [path])[path]
    path.write_bytes(b"three")
    assert digests(tmp_path / "cache", [path])[path] != first
    path.write_bytes(b"one")
    assert digests(tmp_path / "cache", [path])[path] == first
    monkeypatch.setattr(cache.hashlib, "file_digest", None)  # it is not read again
    assert digests(tmp_path / "cache", [path])[path] == first


def test_a_memo_that_is_damaged_only_costs_time(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"one")
    first = digests(tmp_path, [path])
    for odd in ("", "[]", "{", f'{{"{path}": 7}}', f'{{"{path}": [1, 2]}}'):
        (tmp_path / "digests.json").write_text(odd)
        assert digests(tmp_path, [path]) == first


@pytest.fixture
def tree(tmp_path):
    root = tmp_path / "root"
    (root / "a/b").mkdir(parents=True)
    (root / "a/b/plain.bin").write_bytes(b"plain")
    with zipfile.ZipFile(root / "z.zip", "w") as archive:
        archive.writestr("a/b/zipped.bin", b"zipped")
        archive.writestr("a/b/plain.bin", b"another")
    (tmp_path / "packed.bin").write_bytes(b"packed")
    for name, mode in {"t.tar": "w", "t.tar.gz": "w:gz", "t.tar.xz": "w:xz"}.items():
        with tarfile.open(root / name, mode) as archive:
            archive.add(tmp_path / "packed.bin", f"./c/{name}.bin")
    return root


def test_files_in_archives_are_as_if_they_were_unpacked(tree):
    files = list_files(tree)
    assert [file.name for file in files] == [
        "a/b/plain.bin", "a/b/zipped.bin", "c/t.tar.bin", "c/t.tar.gz.bin", "c/t.tar.xz.bin"
    ]  # fmt: skip
    found = {file.name: content for file, content in contents(files)}
    assert found["a/b/plain.bin"] == b"plain"  # what is unpacked comes first
    assert found["a/b/zipped.bin"] == b"zipped"
    assert {content for name, content in found.items() if name.startswith("c/")} == {b"packed"}


@pytest.mark.parametrize("name", ["z.zip", "t.tar", "t.tar.gz", "t.tar.xz"])
def test_a_damaged_archive_is_named(tree, name):
    content = (tree / name).read_bytes()
    (tree / name).write_bytes(content[:515] if name == "t.tar" else content[: len(content) // 2])
    with pytest.raises(DataError, match=f"{name} cannot be read as an archive .*: is it whole"):
        list(contents(list_files(tree)))

"""Pickled files of CIFAR: what Python 2 wrote is read to the byte, and nothing that a file says harms the reader."""

import os
import pickle
import struct
import subprocess
import sys

import numpy as np
import pytest

from isospike.data import load_dataset, pickled
from isospike.data.cifar import CIFAR10, CifarData
from isospike.data.pickled import read_arrays
from isospike.errors import DataError


def short(text: bytes) -> bytes:
    """A string as Python 2's cPickle wrote it in protocol 2, without its place in the memo."""
    return b"U" + bytes([len(text)]) + text


def python2_batch(data: np.ndarray, labels: list[int]) -> bytes:
    """A batch of CIFAR-10, instruction by instruction as in the original files: the memo begins at 1."""
    rows, columns = data.shape
    content = data.tobytes()
    numbers = b"".join(b"K" + bytes([label]) for label in labels)
    files = b"".join(short(b"cat_s_%06d.png" % n) + b"q" + bytes([20 + n]) for n in range(rows))
    return b"".join([
        b"\x80\x02}q\x01(", short(b"batch_label"), b"q\x02", short(b"training batch 1 of 5"), b"q\x03",
        short(b"labels"), b"q\x04]q\x05(", numbers, b"e",
        short(b"data"), b"q\x06cnumpy.core.multiarray\n_reconstruct\nq\x07cnumpy\nndarray\nq\x08K\x00\x85",
        short(b"b"), b"\x87Rq\x09(K\x01K", bytes([rows]), b"M", struct.pack("<H", columns), b"\x86cnumpy\ndtype\nq\x0a",
        short(b"u1"), b"K\x00K\x01\x87Rq\x0b(K\x03", short(b"|"), b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89T",
        struct.pack("<i", len(content)), content, b"tb", short(b"filenames"), b"q\x0c]q\x0d(", files, b"eu.",
    ])  # fmt: skip


IMAGES = np.random.default_rng(0).integers(0, 256, (20, 3072), dtype=np.uint8)
LABELS = [*range(10), *range(10)]
BATCH = python2_batch(IMAGES, LABELS)


def read(tmp_path, content: bytes):
    path = tmp_path / "data_batch_1"
    path.write_bytes(content)
    return read_arrays(path)


def test_the_original_files_are_read_to_the_byte(tmp_path):
    assert pickle.loads(BATCH, encoding="bytes")[b"labels"] == LABELS  # it is a pickle indeed
    content = read(tmp_path, BATCH)
    assert list(content) == ["batch_label", "labels", "data", "filenames"]
    assert content["labels"] == LABELS
    assert np.array_equal(content["data"], IMAGES)
    assert content["filenames"][3] == b"cat_s_000003.png"


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("dtype", ["u1", "i8", ">i2", "<f4", "b1"])
def test_every_protocol_of_python_3_and_every_plain_dtype(tmp_path, protocol, dtype):
    array = (np.arange(12) % 2).reshape(3, 4).astype(dtype)
    content = {
        b"c": array,
        "f": np.asfortranarray(array),
        "rest": [1, -(2**40), 2.5, None, True, (3, "x")],
        7 * "k": array,
    }
    found = read(tmp_path, pickle.dumps(content, protocol=protocol))
    assert found["rest"] == content["rest"]
    for key in ("c", "f", 7 * "k"):
        assert found[key].dtype == array.dtype
        assert np.array_equal(found[key], array)


def object_array() -> bytes:
    """A dtype of Python objects laid over as many raw bytes, which would then be taken for pointers."""
    return BATCH.replace(short(b"u1"), short(b"O8")).replace(b"M\x00\x0c", b"M" + struct.pack("<H", 3072 // 8))


HOSTILE = {
    "objects over raw bytes": (object_array(), "a dtype in it is not that of plain numbers"),
    "fields": (BATCH.replace(b"NNNJ", b"N)}J", 1), "a dtype in it is not that of plain numbers"),
    "a shape beyond the file": (BATCH.replace(b"M\x00\x0c", b"M\xff\xff", 1), "does not fit its 61,440 bytes"),
    "a shape of -1": (BATCH.replace(b"K\x14M", b"J\xff\xff\xff\xffM"), "a shape that no array has"),
    "a string beyond the file": (b"\x80\x02T\xff\xff\xff\x7fabc.", "expected 2147483647 bytes"),
    "a value never kept": (b"\x80\x02j\xff\xff\xff\x7f.", "recalls a value that it never kept"),
    "another call": (b"cos\nsystem\n(U\x02lsltR.", "it asks for os.system, which a data file may not"),
    "numpy's own call": (b"cnumpy\nload\n.", "it asks for numpy.load"),
    "a class": (b"\x80\x02cnumpy\nndarray\n)\x81.", "it asks for NEWOBJ"),
    "a call of a number": (b"\x80\x02K\x01)R.", "calls what is not to be called"),
    "a state of a list": (b"\x80\x02]Nb.", "gives a state to a list"),
    "another codec": (b"c_codecs\nencode\n(X\x01\x00\x00\x00aU\x03zlbtR.", "another codec than latin1"),
    "a tuple as key": (b"\x80\x02}))s.", "a key that is a tuple"),
    "nothing on the stack": (b"\x80\x02.", "takes a value where there is none"),
    "no mark": (b"\x80\x02}u.", "takes values where there are none"),
    "a key alone": (b"\x80\x02}(U\x01au.", "a key without a value"),
    "text": (b"hello", "was not read as pickled arrays"),
    "empty": (b"", "was not read as pickled arrays"),
    "no mapping": (pickle.dumps([1]), "must hold a mapping with 'data' and labels, not a list"),
    "a number of too many digits": (b"L" + b"9" * 5000 + b"L\n.", "was not read as pickled arrays"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_what_no_data_file_says_is_one_sentence(tmp_path, name):
    content, message = HOSTILE[name]
    with pytest.raises(DataError, match=message) as raised:
        read(tmp_path, content)
    assert str(raised.value).startswith(f"{tmp_path / 'data_batch_1'} ")
    assert "\n" not in str(raised.value)


def test_text_is_encoded_once(tmp_path):
    """Otherwise a few bytes, said again and again, would fill the memory."""
    text = "x" * 1000
    once = b"\x80\x02}X\x01\x00\x00\x00kc_codecs\nencode\nq\x00X" + struct.pack("<I", 1000) + text.encode() + b"q\x01"
    latin1 = b"X\x06\x00\x00\x00latin1\x86"
    assert read(tmp_path, once + latin1 + b"Rs.") == {"k": text.encode()}
    with pytest.raises(DataError, match="encodes more text than it holds"):
        read(tmp_path, once + latin1 + b"Rs" + b"X\x01\x00\x00\x00kh\x00h\x01X\x06\x00\x00\x00latin1\x86Rs.")


def test_too_many_instructions_and_too_large_a_file(tmp_path, monkeypatch):
    monkeypatch.setattr(pickled, "MOST_STEPS", 50)
    with pytest.raises(DataError, match="it has more than 50 instructions"):
        read(tmp_path, b"\x80\x02](" + b"N" * 100 + b"e.")
    monkeypatch.setattr(pickled, "LARGEST_FILE", 1000)
    with pytest.raises(DataError, match="cannot be read: it holds more than 1,000 bytes"):
        read(tmp_path, BATCH)


def test_a_memo_index_beyond_the_file_takes_no_memory(tmp_path):
    """One byte of difference makes it one that C would lay out a table of gigabytes for."""
    kept = b"\x80\x02}r\xf0\xff\xff\x7fU\x01aK\x01s."
    path = tmp_path / "batch"
    path.write_bytes(kept)
    code = (
        "import resource, sys; from pathlib import Path; from isospike.data.pickled import read_arrays\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "assert read_arrays(Path(sys.argv[1])) == {'a': 1}\n"
        "assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < before + 50_000"
    )
    subprocess.run([sys.executable, "-c", code, str(path)], check=True, timeout=60)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([1.5] * 20, "image 0 has the label 1.5, labels are integers"),
        ([*LABELS[:5], True, *LABELS[6:]], "image 5 has a bool as its label"),
        ([*LABELS[:5], None, *LABELS[6:]], "image 5 has a NoneType as its label"),
        ([*LABELS[:5], 2**100, *LABELS[6:]], "the label of more than 64 bits, labels run from 0 to 9"),
        ([*LABELS[:5], 2**20000, *LABELS[6:]], "the label of more than 64 bits"),
        (np.array([LABELS]), "must hold 'data' .* and labels"),
        (np.array(LABELS, np.float32), "the label 0.0, labels are integers"),
        (7, "must hold 'data' .* and labels"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_labels_are_whole_numbers(tmp_path, labels, message):
    folder = tmp_path / CIFAR10.pickle_folder
    folder.mkdir()
    for name in (*CIFAR10.pickle_files["train"], *CIFAR10.pickle_files["test"]):
        (folder / name).write_bytes(pickle.dumps({b"data": IMAGES, b"labels": labels}, protocol=2))
    with pytest.raises(DataError, match=message):
        load_dataset(CifarData(kind="cifar10", dir=str(tmp_path)))


def test_labels_may_be_an_array(tmp_path):
    folder = tmp_path / CIFAR10.pickle_folder
    folder.mkdir()
    for name in (*CIFAR10.pickle_files["train"], *CIFAR10.pickle_files["test"]):
        (folder / name).write_bytes(pickle.dumps({b"data": IMAGES, b"labels": np.array(LABELS)}, protocol=2))
    assert load_dataset(CifarData(kind="cifar10", dir=str(tmp_path))).test.labels.tolist() == LABELS


def test_a_file_that_may_not_be_read_is_named(tmp_path):
    folder = tmp_path / "data_batch_1"
    folder.mkdir()
    with pytest.raises(DataError, match=f"data_batch_1 cannot be read: {os.strerror(21)}"):
        read_arrays(folder)
    with pytest.raises(DataError, match="nothing does not exist"):
        read_arrays(tmp_path / "nothing")

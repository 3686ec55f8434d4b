"""Recordings that are read part by part are those that are read whole, however the parts are cut."""

import io
import re
import tracemalloc
from random import Random

import numpy as np
import pytest

import event_files
import isospike as iso
from event_files import WRITERS, some_events
from isospike.errors import DataError
from isospike.events import FORMATS, decode, pieces, read_pieces
from isospike.events.order import InOrder
from isospike.events.recording import Decoded
from test_events_read import recordings, table  # noqa: F401

IN_PIECES = [kind for kind, (format, _, _) in WRITERS.items() if FORMATS[format].in_pieces]


class Pipe:
    """Gives a content in blocks of any size, as a pipe does."""

    name = "a pipe"

    def __init__(self, content, seed, most=40):
        self.content, self.at, self.rng, self.most = content, 0, Random(seed), most

    def read1(self, most):
        start = self.at
        self.at += min(most, self.rng.randint(1, self.most))
        return self.content[start : self.at]


def together(parts):
    return np.concatenate([np.zeros((0, 4), np.int64), *(table(part) for part in parts)])


@pytest.mark.parametrize("kind", WRITERS)
def test_parts_are_together_what_is_read_whole(kind):
    format, write, sensor = WRITERS[kind]
    content = write(some_events(300))
    whole = table(decode(content, "x", format=format))
    for seed, named in enumerate((format, format, format, None)):
        parts = list(read_pieces(Pipe(content, seed), format=named))
        assert (together(parts) == whole).all()
        assert len(whole) == sum(map(len, parts))
        assert parts[0].sensor == sensor or not len(parts[0])
        if kind in IN_PIECES and named is not None:
            assert sum(len(part) > 0 for part in parts) > 5, "it was read whole"


@pytest.mark.parametrize("kind", IN_PIECES)
def test_a_fault_has_the_words_and_the_place_that_it_has_in_the_whole_file(kind):
    """But for its number, which is that in the order of time so far."""
    format, write, _ = WRITERS[kind]
    sound = write(some_events(120))
    found = set()
    for seed in range(60):
        rng = Random(f"{kind} {seed}")
        content = bytearray(sound)
        start = rng.randrange(len(content))
        if rng.random() < 0.4:
            del content[start:]
        else:
            content[start] ^= 1 << rng.randrange(8)
        try:
            whole = table(decode(bytes(content), "a pipe", format=format, sort=True)), ""
        except DataError as error:
            whole = None, str(error)
        try:
            parts = together(read_pieces(Pipe(bytes(content), seed, 200), format=format, late=2**62)), ""
        except DataError as error:
            parts = None, str(error)
        assert re.sub(r"event [\d,]+", "event", whole[1]) == re.sub(r"event [\d,]+", "event", parts[1])
        assert whole[0] is None or (whole[0] == parts[0]).all()
        found.add(whole[1][:30])
    assert len(found) > 1


@pytest.mark.parametrize(("kind", "bits"), [("aedat2", 32), ("dat", 32), ("evt2", 34), ("evt2.1", 34), ("evt3", 24)])
def test_a_counter_of_time_goes_on_from_part_to_part(kind, bits):
    written = [((1 << bits) - 100 + (40 + (1 << bits - 2)) * n, n, 5, n % 2) for n in range(24)]
    content = WRITERS[kind][1](written)
    for seed in range(5):
        parts = read_pieces(Pipe(content, seed, 16), format=WRITERS[kind][0])
        assert together(parts).tolist() == [list(event) for event in written]


def test_overflows_of_the_sensor_of_nmnist_go_on_from_part_to_part():
    written = event_files.bits40([(10, 3, 4, 1), (20, 7, 240, 0), (15, 5, 6, 0), (20, 7, 240, 0), (15, 8, 6, 0)])
    parts = together(read_pieces(Pipe(written, 0, 7), format="bits40"))
    assert parts.tolist() == [[10, 3, 4, 1], [15 + 2**13, 5, 6, 0], [15 + 2**14, 8, 6, 0]]


def test_a_path_is_read_part_by_part_and_a_missing_one_named(tmp_path, monkeypatch):
    monkeypatch.setattr(pieces, "BLOCK", 64)
    monkeypatch.setattr(pieces, "FIRST", 64)
    (tmp_path / "recording").write_bytes(event_files.evt3(some_events(500)))
    parts = list(read_pieces(tmp_path / "recording"))
    assert (together(parts) == table(iso.events.read(tmp_path / "recording"))).all()
    assert max(map(len, parts)) < 100
    with pytest.raises(DataError, match="nothing cannot be read: No such file"):
        next(read_pieces(tmp_path / "nothing"))


def test_what_never_ends_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(pieces, "LARGEST_UNIT", 300_000)
    with pytest.raises(DataError, match="a pipe: line 1 is no event .*: x{100}"):
        list(read_pieces(Pipe(b"x" * 10_000, 0), format="text"))
    packet = event_files.aedat31(some_events(7))[:-36] + b"\1\0\1\0" + np.array([8, 4, 0, 2**27, 0, 0], "<i4").tobytes()
    with pytest.raises(DataError, match=r"what begins at byte \d+ does not end within 300,000 bytes"):
        list(read_pieces(io.BytesIO(packet + bytes(900_000)), format="aedat3"))


def test_a_pipe_of_any_length_takes_the_same_memory():
    class Endless(io.RawIOBase):
        """Events of 40 bits, made when they are asked for: 3 million of them take 15 MB."""

        left = 3_000_000

        def read1(self, most):
            count = min(most // 5, self.left)
            self.left -= count
            return b"\1\2\0\0\7" * count

    tracemalloc.start()
    count = sum(map(len, read_pieces(Endless(), format="bits40")))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 3_000_000
    assert peak < 8_000_000


def shuffled(late, count=400, seed=0):
    """Events in an order in which none is later than so many microseconds, and another one in which one is."""
    rng = np.random.default_rng(seed)
    events = np.array(some_events(count))
    arrival = np.argsort(events[:, 0] + rng.integers(0, late + 1, count), kind="stable")
    return events[arrival]


def parts_of(rows, seed, most=30):
    rng, at = Random(seed), 0
    while at < len(rows):
        size = rng.randint(0, most)
        yield Decoded(*rows[at : at + size].T)
        at += size


@pytest.mark.parametrize("late", [0, 1, 500, 20_000])
def test_late_events_come_in_the_order_of_a_stable_sort_however_they_are_cut(late):
    rows = shuffled(late)
    expected = rows[np.argsort(rows[:, 0], kind="stable")]
    assert late < 500 or (expected != rows).any()
    for seed in range(4):
        order = InOrder(late)
        given = []
        for part in parts_of(rows, seed):
            given.append(order.add(part))
            held = table(order.add(Decoded(*np.zeros((4, 0), int))))
            assert not len(held)
        given.append(order.end())
        assert together(given).tolist() == expected.tolist()
        assert order.taken == len(rows)


def test_events_that_are_too_late_are_named_and_nothing_of_their_part_is_taken():
    order = InOrder(10, "a")
    order.add(Decoded(*np.array([[100, 1, 1, 0], [95, 2, 1, 0]]).T))
    with pytest.raises(DataError, match="^a: event 3 comes 15 us late, and late=10$"):
        order.add(Decoded(*np.array([[104, 1, 1, 0], [89, 2, 1, 0]]).T))
    assert (len(order), order.taken) == (2, 2)
    order.add(Decoded(*np.array([[104, 1, 1, 0], [94, 2, 1, 0]]).T))
    assert table(order.until(98)).tolist() == [[95, 2, 1, 0]]
    with pytest.raises(DataError, match="^a: event 4 is at 97 us, and what lies before 98 us was over$"):
        order.add(Decoded(*np.array([[97, 1, 1, 0]]).T))
    with pytest.raises(DataError, match="^a: event 5 has the polarity 3"):
        order.add(Decoded(*np.array([[101, 1, 1, 0], [102, 1, 1, 3]]).T))
    with pytest.raises(DataError, match=r"^b: event 1 is 3 us before the one in front of it; late=3 waits"):
        InOrder(0, "b").add(Decoded(*np.array([[5, 1, 1, 0], [2, 1, 1, 1]]).T))


FIRST, LAST = -(2**63), 2**63 - 1  # microseconds that 64 bits can hold


@pytest.mark.parametrize("late", [0, 5, 2**62, 2**64])
@pytest.mark.parametrize("times", [[FIRST, FIRST + 1], [FIRST, LAST], [LAST - 1, LAST], [LAST, FIRST], [0, FIRST]])
def test_times_at_the_ends_of_64_bits_are_kept_or_named(late, times):
    order, by = InOrder(late, "a"), times[0] - times[1]
    rows = [[t, 1, 1, 0] for t in times]
    if by > late:
        said = f"is {by:,} us before the one in front of it; late={by} waits" if not late else f"comes {by:,} us late, "
        with pytest.raises(DataError, match=f"^a: event 1 {said}"):
            order.add(Decoded(*np.array(rows).T))
    else:
        given = [order.add(Decoded(*np.array(rows).T)), order.end()]
        assert together(given).tolist() == sorted(rows)
        assert len(order) == 0


@pytest.mark.data
def test_real_recordings_in_parts(recordings):  # noqa: F811
    """Of every format that is read in parts; the times of the camera of EVT 3 step back by up to 11 us."""
    for name in ("evt3/gen41.raw", "evt2/gen3_a.raw", "aedat2/davis240c_boxes.aedat", "aedat4/dv_lz4.aedat4",
                 "dat/ncars_a.dat", "nmnist/tonic_sample.bin", "written/evutils_evt21.raw"):  # fmt: skip
        whole = iso.events.read(recordings / name, sort=True)
        parts = list(read_pieces(recordings / name, late=11))
        assert (together(parts) == table(whole)).all(), name
        assert len(parts) > 3 or whole.t.size < 50_000, name

"""Event files: the real ones, and ones written event by event."""

import hashlib
import io
import json
import re
import struct
import tarfile

import numpy as np
import pytest

import event_files
import isospike as iso
from event_files import SENSOR, WRITERS, some_events
from isospike.errors import DataError, UnknownName
from isospike.events import FORMATS, Events, decode


def table(events):
    return np.stack([events.t, events.x, events.y, events.p], axis=1).astype("<i8")


@pytest.fixture(scope="module")
def recordings(real_data):
    return real_data / "events"


NEEDS_EXTRA = ".h5"


def check_reference(folder, with_extra):
    references = json.loads((folder / "reference.json").read_text())
    names = [name for name in references if name.endswith(NEEDS_EXTRA) == with_extra]
    assert names
    for name in names:
        events, expected = iso.events.read(folder / name), references[name]
        assert len(events) == expected["count"], name
        assert hashlib.sha256(table(events).tobytes()).hexdigest() == expected["txyp_int64_sha256"], name
        assert events.sensor in (None, tuple(expected["sensor"] or ())), name


@pytest.mark.data
def test_real_recordings_read_to_what_several_readers_agree_on(recordings):
    check_reference(recordings, with_extra=False)


@pytest.mark.data
@pytest.mark.events
def test_real_recordings_of_formats_that_need_a_package(recordings):
    check_reference(recordings, with_extra=True)


@pytest.mark.data
def test_four_hundred_recordings_of_nmnist(recordings):
    facts = json.loads((recordings / "nmnist/slayer_nmnist400.json").read_text())["files"]
    with tarfile.open(recordings / "nmnist/slayer_nmnist400.tar.xz") as archive:
        for member in archive:
            if member.name.endswith(".bs2"):
                events = decode(archive.extractfile(member).read(), member.name, sensor=(34, 34))
                _, count, last, digest = facts[member.name]
                assert (len(events), events.t[-1]) == (count, last)
                assert hashlib.sha256(table(events).tobytes()).hexdigest().startswith(digest)


@pytest.mark.parametrize("kind", WRITERS)
def test_what_was_written_is_read_and_its_format_found(kind, tmp_path):
    format, write, sensor = WRITERS[kind]
    written = some_events(500)
    path = tmp_path / "recording"
    path.write_bytes(write(written))
    for events in (iso.events.read(path), iso.events.read(path, format=format)):
        assert table(events).tolist() == [list(event) for event in written]
        assert events.sensor == sensor
        assert [array.dtype for array in (events.t, events.x, events.y, events.p)] == [
            "int64",
            "uint16",
            "uint16",
            "uint8",
        ]


def test_every_format_has_a_writer():
    """But for HDF5, which a package writes, below."""
    assert {format for format, _, _ in WRITERS.values()} == set(FORMATS) - {"hdf5"}


@pytest.mark.parametrize(("kind", "bits"), [("aedat2", 32), ("dat", 32), ("evt2", 34), ("evt2.1", 34), ("evt3", 24)])
def test_a_full_counter_of_time_goes_on(kind, bits):
    start = (1 << bits) - 100
    written = [(start + 40 * n, n, 5, n % 2) for n in range(10)]
    events = decode(WRITERS[kind][1](written), kind)
    assert events.t.tolist() == [event[0] for event in written]


def test_overflows_of_the_sensor_of_nmnist_are_time_and_no_events():
    written = event_files.bits40([(10, 3, 4, 1), (20, 7, 240, 0), (15, 5, 6, 0)])
    assert table(decode(written, "x")).tolist() == [[10, 3, 4, 1], [15 + 2**13, 5, 6, 0]]


def test_times_of_aedat3_go_beyond_31_bits():
    written = [(2**31 + 100 * n, n, 5, n % 2) for n in range(10)]
    assert decode(event_files.aedat31(written), "x").t.tolist() == [event[0] for event in written]


def test_evt3_whose_low_time_steps_back_between_events_has_not_overflown():
    words = [0x8001, 0x6320, 0x0005, 0x2007, 0x8001, 0x632B, 0x6320, 0x2008]
    content = b"% evt 3.0\n" + struct.pack("<8H", *words)
    assert table(decode(content, "x")).tolist() == [[4096 + 0x320, 7, 5, 0], [4096 + 0x320, 8, 5, 0]]


def test_raw_files_of_cameras_begin_in_the_middle():
    """Events in front of the first time, row or column have none."""
    events = [0x2007, 0x0005, 0x2007, 0x4001, 0x8001, 0x4001, 0x2009]
    content = b"% evt 3.0\n" + struct.pack("<7H", *events)
    assert table(decode(content, "x")).tolist() == [[4096, 9, 5, 0]]
    with pytest.raises(DataError, match="x holds events, but never the time, row and column of one"):
        decode(content[:-6], "x")


def test_evt21_of_the_legacy_order_of_halves():
    sound = event_files.evt21(some_events(50))
    start = sound.index(b"% end\n") + 6
    swapped = np.frombuffer(sound, "<u4", offset=start).reshape(-1, 2)[:, ::-1].tobytes()
    legacy = decode(b"% endianness legacy\n" + sound[:start] + swapped, "x")
    assert (table(legacy) == table(decode(sound, "x"))).all()


def test_unknown_sizes_are_not_guessed_and_given_ones_are_checked(tmp_path):
    content = event_files.bits40([(1, 33, 0, 0), (2, 0, 34, 1)])
    assert decode(content, "a.bin").sensor is None
    assert decode(content, "a.bin", sensor=(34, 35)).sensor == (34, 35)
    with pytest.raises(DataError, match=r"a.bin: event 1 \(at byte 5\) has y = 34, and the sensor is 34 high"):
        decode(content, "a.bin", sensor=(34, 34))
    with pytest.raises(DataError, match=r"b is of a sensor of \(128, 120\), not of \(34, 34\)"):
        decode(event_files.dat2([(1, 2, 3, 0)]), "b", sensor=(34, 34))


@pytest.mark.parametrize("kind", ["aedat2", "aedat2 davis", "aedat3", "bits40", "dat", "evt2", "evt2.1", "evt3"])
def test_time_that_goes_back_is_named_with_its_place_or_sorted(kind):
    written = [(900, 1, 1, 0), (950, 2, 1, 0), (940, 33, 1, 1), (940, 84, 1, 1)]
    format, write, _ = WRITERS[kind]
    content = write(written)
    with pytest.raises(
        DataError, match=r"^a file: event 2 \(at byte \d+\) is 10 us before the one .*; sort=True"
    ) as refusal:
        decode(content, "a file", format=format)
    place = int(re.search(r"at byte (\d+)", str(refusal.value)).group(1))
    # Up to that byte the file holds what precedes the event, and at that byte the event itself.
    moved = [*written[:2], (940, 34, 1, 1), written[3]]
    first_change = next(n for n, (a, b) in enumerate(zip(content, write(moved), strict=True)) if a != b)
    assert place <= first_change < place + 8
    assert table(decode(content, "a file", format=format, sort=True)).tolist() == [
        [900, 1, 1, 0], [940, 33, 1, 1], [940, 84, 1, 1], [950, 2, 1, 0]
    ]  # fmt: skip


@pytest.mark.parametrize("kind", [kind for kind in WRITERS if WRITERS[kind][0] not in ("text", "npz", "npy")])
def test_a_file_that_was_cut_short_is_named_with_its_place(kind):
    format, write, _ = WRITERS[kind]
    content = write(some_events(50))
    with pytest.raises(DataError, match=r"^cut ends within its last \w+, .*: is it whole\?$"):
        decode(content[:-1], "cut", format=format)


@pytest.mark.parametrize("kind", ["npz", "npy", "text"])
def test_arrays_that_were_cut_short_are_named(kind):
    content = WRITERS[kind][1](some_events(50))
    with pytest.raises(DataError, match="^cut"):
        decode(content[:-3] if kind != "text" else content[:-4], "cut", format=kind)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "^odd is in no known format of events: name one with format=, of aedat2, "),
        (b"\x89PNG\r\n", "^odd is in no known format of events"),
        (b"#!AER-DAT2.0\r\n# AEChip: some.Chip7\r\n", "odd is a recording of the chip some.Chip7; known are DVS128, D"),
        (b"% evt 7.0\n", "odd has the encoding EVT 7.0; known are EVT 2.0, 2.1, 3.0"),
        (b"% evt 2.0\n" + struct.pack("<2I", 0x8 << 28, 0x3 << 28), "odd: the word at byte 14 is of the unknown kind"),
        (b"% Version 2\n\x0e\x08", r"odd: the header ends at byte 12 in \(14, 8\), and events of a camera are"),
        (b"#!AER-DAT3.1\r\n#!END-HEADER\r\n" + bytes(28), "odd: what stands at byte 28 is not the header of a packet"),
        (b"#!AER-DAT4.0\r\n" + b"\xff" * 40, "odd: the header behind byte 14 is damaged"),
        (b"1.5 3 4 1\n2.5 3 4 2\n", "odd: line 2 is no event .seconds, x, y, polarity.: 2.5 3 4 2"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_file_is_said(content, message):
    with pytest.raises(DataError, match=message):
        decode(content, "odd")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"t": [1], "x": [1], "y": [1]}, "a has no p or ps or polarity; it holds t, x, y"),
        ({"t": [1, 2], "x": [1], "y": [1], "p": [1]}, "a: t, x, y and p are rows of one length, they are"),
        ({"t": [1], "x": [1.5], "y": [1], "p": [1]}, "a: x is of whole numbers, it is float64"),
        ({"t": [1], "x": [-1], "y": [1], "p": [1]}, "a: event 0 has x = -1, and the largest is 65,535"),
        ({"t": [1, 2], "x": [1, 1], "y": [1, 1], "p": [0, 2]}, "a: event 1 has the polarity 2, which is 0 or 1"),
        ({"t": [1, 2, 3], "x": [1] * 3, "y": [1] * 3, "p": [-1, 0, 1]}, "a: polarities are -1 and 1, or 0 and 1, and"),
        ({"t": [np.nan], "x": [1], "y": [1], "p": [1]}, "a: times in seconds are finite"),
    ],
)  # fmt: skip
def test_arrays_of_another_kind_are_refused(arrays, message):
    content = io.BytesIO()
    np.savez(content, **arrays)
    with pytest.raises(DataError, match=message):
        decode(content.getvalue(), "a")


def test_pickles_in_arrays_are_not_run():
    content = io.BytesIO()
    np.save(content, np.array([{"t": 1}], dtype=object))
    with pytest.raises(DataError, match="a cannot be read as an array of numpy"):
        decode(content.getvalue(), "a")


def test_a_wrong_name_and_a_missing_file_are_named(tmp_path):
    with pytest.raises(UnknownName, match="unknown format of events 'aedat'; nearest: aedat"):
        decode(b"", "x", format="aedat")
    with pytest.raises(DataError, match="nothing cannot be read: No such file"):
        iso.events.read(tmp_path / "nothing")


@pytest.mark.events
@pytest.mark.parametrize("layout", ["seconds", "offset"])
def test_hdf5_in_its_layouts(layout):
    import h5py

    written = np.array(some_events(200))
    t, x, y, p = written.T
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        if layout == "seconds":
            file["ts"], file["xs"], file["ys"], file["ps"] = t / 1e6, x, y, 2 * p - 1
        else:
            for name, values in {"t": t - 4000, "x": x, "y": y, "p": p}.items():
                file.create_dataset(f"events/{name}", data=values, chunks=True, compression="gzip")
            file["t_offset"] = 4000
            file.attrs["width"], file.attrs["height"] = SENSOR
    events = decode(content.getvalue(), "x")
    assert (table(events) == written).all()
    assert events.sensor == (None if layout == "seconds" else SENSOR)


@pytest.mark.events
def test_hdf5_that_claims_what_it_does_not_hold_is_refused():
    import h5py

    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        for name in "txyp":
            file.create_dataset(name, shape=(2**40,), dtype="u2", chunks=(2**20,))
    with pytest.raises(DataError, match="x claims 1099511627776 events, more than any recording has"):
        decode(content.getvalue(), "x")


def test_events_refuse_what_no_recording_holds():
    with pytest.raises(DataError, match=r"t, x, y and p are as many as there are events, got .*'p': 1"):
        Events([1, 2], [1, 2], [1, 2], [1])
    with pytest.raises(DataError, match="event 1 is 1 us before the one in front of it"):
        Events([2, 1], [0, 0], [0, 0], [0, 0])
    with pytest.raises(DataError, match="event 0 has x = 4, and the sensor is 4 wide"):
        Events([2], [4], [0], [0], (4, 4))
    with pytest.raises(DataError, match=r"the size of a sensor is \(width, height\) in pixels, from 1 to 65,536, got"):
        Events([], [], [], [], (0, 4))


def test_parts_of_events_are_events():
    events = Events(*np.array(some_events(40)).T, SENSOR)
    assert table(events[10:20]).tolist() == table(events)[10:20].tolist()
    assert (events[events.p == 1].p == 1).all()
    assert events[events.p == 1].sensor == SENSOR
    assert events.duration == events.t[-1] - events.t[0]
    assert events[:0].duration == 0

"""Writers of event files, one event at a time with ``struct``, as the formats are published: no code of the readers."""

import io
import struct
import zipfile
from collections.abc import Callable, Iterable
from functools import partial

import numpy as np
import pyarrow as pa

Event = tuple[int, int, int, int]  # t, x, y, p
SENSOR = (128, 120)


def some_events(count: int = 60, seed: int = 0) -> list[Event]:
    """In order of time, with several at one time and neighbours in a row, as cameras send them."""
    rng = np.random.default_rng(seed)
    t, events = 5_000, []
    while len(events) < count:
        t += int(rng.choice([0, 0, 3, 70, 5_000]))
        x, y, p = int(rng.integers(0, 100)), int(rng.integers(0, SENSOR[1])), int(rng.integers(0, 2))
        events += [(t, x + step, y, p) for step in range(int(rng.choice([1, 1, 5, 20])))]
    return events[:count]


def aedat2_dvs128(events: Iterable[Event], chip: str = "ch.unizh.ini.jaer.chip.retina.DVS128") -> bytes:
    """jAER: times modulo 2**32; the column runs from the right, and bit 0 is 0 where it became brighter."""
    header = f"#!AER-DAT2.0\r\n# This is a raw AE data file - do not edit\r\n# AEChip: {chip}\r\n".encode()
    body = (struct.pack(">II", y << 8 | (127 - x) << 1 | 1 - p, t % 2**32) for t, x, y, p in events)
    return header + b"".join(body)


def aedat2_davis240(events: Iterable[Event]) -> bytes:
    """The same of a DAVIS240C, with a frame's and an external word between the events."""
    header = b"#!AER-DAT2.0\r\n# AEChip: eu.seebetter.ini.chips.davis.DAVIS240C\r\n#End Of ASCII Header\r\n"
    body = (
        struct.pack(">II", y << 22 | (239 - x) << 12 | p << 11, t) + struct.pack(">IIII", 1 << 31 | 77, t, 1 << 10, t)
        for t, x, y, p in events
    )
    return header + b"".join(body)


def aedat31(events: Iterable[Event], per_packet: int = 7) -> bytes:
    """cAER: packets of a header of 28 bytes and events, among them an invalid one and a packet of another type."""
    content = b"#!AER-DAT3.1\r\n#Format: RAW\r\n#Source 1: DVS128\r\n#Start-Time: 2016-01-01\r\n#!END-HEADER\r\n"
    events = list(events)
    for start in range(0, len(events), per_packet):
        part = events[start : start + per_packet]
        words = [(x << 17 | y << 2 | p << 1 | 1, t) for t, x, y, p in part]
        words.insert(1, (50 << 17, part[0][0]))  # invalid
        overflows = words[0][1] >> 31
        content += struct.pack("<hhiiiiii", 1, 1, 8, 4, overflows, len(words), len(words), len(part))
        content += b"".join(struct.pack("<II", word, t - (overflows << 31)) for word, t in words)
        content += struct.pack("<hhiiiiii", 0, 1, 8, 4, 0, 1, 1, 1) + bytes(8)  # a special event
    return content


def _flatbuffer(mark: bytes, fields: list[tuple[str, int] | bytes], count: int = 0) -> bytes:
    """One table of numbers and of one vector behind it, with its length in front."""
    sizes = [4 if isinstance(field, bytes) else struct.calcsize(field[0]) for field in fields]
    places = [4 + sum(sizes[:n]) for n in range(len(fields))]
    vtable = struct.pack(f"<{2 + len(fields)}H", 4 + 2 * len(fields), 4 + sum(sizes), *places)
    table = struct.pack("<i", len(vtable))
    for field, place in zip(fields, places, strict=True):
        to_the_end = 4 + sum(sizes) - place
        table += struct.pack("<I", to_the_end) if isinstance(field, bytes) else struct.pack("<" + field[0], field[1])
    vector = b"".join(struct.pack("<I", count or len(field)) + field for field in fields if isinstance(field, bytes))
    content = struct.pack("<I", 4 + len(mark) + len(vtable)) + mark + vtable + table + vector
    return struct.pack("<I", len(content)) + content


def aedat4(events: Iterable[Event], codec: str | None = None, per_packet: int = 7) -> bytes:
    """DV: streams of frames and of events, whose packets take turns, without the table of packets at the end."""
    streams = "".join(
        f'<node name="{number}"><attr key="typeIdentifier" type="string">{kind}</attr><node name="info">'
        f'<attr key="sizeX" type="int">{SENSOR[0]}</attr><attr key="sizeY" type="int">{SENSOR[1]}</attr></node></node>'
        for number, kind in {0: "FRME", 2: "EVTS"}.items()
    )
    description = f'<dv version="2.0"><node name="outInfo">{streams}</node></dv>'.encode()
    compression = {None: 0, "lz4": 1, "zstd": 3}[codec]
    content = b"#!AER-DAT4.0\r\n" + _flatbuffer(b"IOHE", [("i", compression), ("q", -1), description])
    events = list(events)
    for start in range(0, len(events), per_packet):
        part = events[start : start + per_packet]
        rows = b"".join(struct.pack("<qhhB3x", *event) for event in part)
        packet = _flatbuffer(b"EVTS", [rows], len(part))
        if codec is not None:
            compressed = pa.BufferOutputStream()
            with pa.CompressedOutputStream(compressed, codec) as stream:
                stream.write(packet)
            packet = compressed.getvalue().to_pybytes()
        content += struct.pack("<ii", 2, len(packet)) + packet + struct.pack("<ii", 0, 3) + b"xyz"
    return content


def bits40(events: Iterable[Event]) -> bytes:
    return b"".join(bytes([x, y, p << 7 | t >> 16, t >> 8 & 0xFF, t & 0xFF]) for t, x, y, p in events)


def dat2(events: Iterable[Event], kind: int = 12) -> bytes:
    header = f"% Version 2\n% Width {SENSOR[0]}\n% Height {SENSOR[1]}\n".encode() + bytes([kind, 8])
    return header + b"".join(struct.pack("<II", t % 2**32, x | y << 14 | p << 28) for t, x, y, p in events)


def _raw_header(version: str) -> bytes:
    return f"% evt {version}\n% geometry {SENSOR[0]}x{SENSOR[1]}\n% end\n".encode()


def evt2(events: Iterable[Event]) -> bytes:
    words, high = [0xE << 28], None
    for t, x, y, p in events:
        if t >> 6 != high:
            high = t >> 6
            words.append(0x8 << 28 | high % 2**28)
        words.append(p << 28 | (t & 0x3F) << 22 | x << 11 | y)
    return _raw_header("2.0") + struct.pack(f"<{len(words)}I", *words)


def evt21(events: Iterable[Event]) -> bytes:
    """Neighbours of one time, row and polarity share a word of 32 columns."""
    words, high, last = [], None, None
    for t, x, y, p in events:
        if t >> 6 != high:
            high = t >> 6
            words.append(0x8 << 60 | high % 2**28 << 32)
        key = t, y, p
        if last is not None and last[0] == key and 0 < x - last[1] < 32 and words[-1] >> 60 != 0x8:
            words[-1] |= 1 << x - last[1]
        else:
            words.append(p << 60 | (t & 0x3F) << 54 | x << 43 | y << 32 | 1)
            last = key, x
    return _raw_header("2.1") + struct.pack(f"<{len(words)}Q", *words)


def evt3(events: Iterable[Event]) -> bytes:
    """Rows of at least 12 neighbours as vectors, the others singly."""
    events, words = list(events), []
    state: dict[str, int | None] = {"high": None, "low": None, "y": None}
    place = 0
    while place < len(events):
        t, x, y, p = events[place]
        if t >> 12 != state["high"]:
            state.update(high=t >> 12, low=None)
            words.append(0x8 << 12 | (t >> 12) % 2**12)
        if t & 0xFFF != state["low"]:
            state["low"] = t & 0xFFF
            words.append(0x6 << 12 | t & 0xFFF)
        if y != state["y"]:
            state["y"] = y
            words.append(y)
        run = 1
        while place + run < len(events) and events[place + run] == (t, x + run, y, p):
            run += 1
        if run >= 12:
            words += [0x3 << 12 | p << 11 | x, 0x4 << 12 | 0xFFF]
            if run > 12:
                run = min(run, 20)
                words.append(0x5 << 12 | (1 << run - 12) - 1)
        else:
            words += [0x2 << 12 | p << 11 | x + step for step in range(run)]
        place += run
    return _raw_header("3.0") + struct.pack(f"<{len(words)}H", *words)


def npz(events: Iterable[Event]) -> bytes:
    content = io.BytesIO()
    t, x, y, p = np.array(list(events)).reshape(-1, 4).T
    np.savez(content, t=t, x=x.astype(np.uint16), y=y.astype(np.uint16), p=p.astype(bool))
    return content.getvalue()


def npz_compressed(events: Iterable[Event]) -> bytes:
    """With signs as polarity, by ``zipfile`` itself."""
    t, x, y, p = np.array(list(events)).reshape(-1, 4).T
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, values in {"t": t, "x": x, "y": y, "p": 2 * p - 1}.items():
            array = io.BytesIO()
            np.save(array, values)
            archive.writestr(f"{name}.npy", array.getvalue())
    return content.getvalue()


def npy(events: Iterable[Event]) -> bytes:
    content = io.BytesIO()
    rows = [(x, y, t, p) for t, x, y, p in events]
    np.save(content, np.array(rows, dtype=[("x", "<i2"), ("y", "<i2"), ("t", "<i8"), ("p", "?")]))
    return content.getvalue()


def text(events: Iterable[Event]) -> bytes:
    return b"".join(f"{t // 10**6}.{t % 10**6:06} {x} {y} {p}\n".encode() for t, x, y, p in events)


# By what it is called in a test: name of the format, writer, and the sensor that the file says.
WRITERS: dict[str, tuple[str, Callable[[Iterable[Event]], bytes], tuple[int, int] | None]] = {
    "aedat2": ("aedat2", aedat2_dvs128, (128, 128)),
    "aedat2 davis": ("aedat2", aedat2_davis240, (240, 180)),
    "aedat3": ("aedat3", aedat31, (128, 128)),
    "aedat4": ("aedat4", aedat4, SENSOR),
    "aedat4 lz4": ("aedat4", partial(aedat4, codec="lz4"), SENSOR),
    "aedat4 zstd": ("aedat4", partial(aedat4, codec="zstd"), SENSOR),
    "bits40": ("bits40", bits40, None),
    "dat": ("dat", dat2, SENSOR),
    "evt2": ("raw", evt2, SENSOR),
    "evt2.1": ("raw", evt21, SENSOR),
    "evt3": ("raw", evt3, SENSOR),
    "npz": ("npz", npz, None),
    "npz signs": ("npz", npz_compressed, None),
    "npy": ("npy", npy, None),
    "text": ("text", text, None),
}

"""Formats without a description of their own: events of 40 bits, arrays of numpy, text, HDF5."""

import io
import re
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from isospike.errors import DataError
from isospike.events.recording import LONGEST_LINE, WHOLE, Decoded, Piece, whole_units
from isospike.optional import import_optional
from isospike.text import brief

OVERFLOW_ROW, OVERFLOW = 240, 2**13  # an event in this row says that so many microseconds passed unnoticed
NAMES = {"t": ("t", "ts", "timestamp"), "x": ("x", "xs"), "y": ("y", "ys"), "p": ("p", "ps", "polarity")}
# What numpy and zipfile raise of damaged files.
BROKEN = (
    ValueError, OSError, EOFError, KeyError, TypeError, RuntimeError, NotImplementedError, MemoryError, OverflowError,
    SyntaxError, zipfile.BadZipFile, zlib.error, struct.error, tokenize.TokenError,
)  # fmt: skip
MOST_EVENTS = 2**31  # of a file; a camera of a megapixel takes minutes for them


def read_bits40(content: bytes, where: str, piece: Piece = WHOLE) -> Decoded:
    """Read events of 40 bits, as of N-MNIST and N-Caltech101: column, row, polarity in one bit and time in 23.

    Source: Orchard et al. 2015, arXiv:1507.07629; rows of 240 are overflows of time, as in its Matlab and Python code.

    Raises:
        DataError: cut short.
    """
    number = whole_units(content, 0, 5, "event", where, piece)
    octets = np.frombuffer(content, np.uint8, 5 * number).reshape(-1, 5)
    high = octets[:, 2].astype(np.int64)
    t = (high & 0x7F) << 16 | octets[:, 3].astype(np.int64) << 8 | octets[:, 4]
    overflow = octets[:, 1] == OVERFLOW_ROW
    passed = piece.state or 0
    t += passed + np.cumsum(overflow) * OVERFLOW
    events = np.flatnonzero(~overflow)
    return Decoded(
        t=t[events],
        x=octets[events, 0],
        y=octets[events, 1],
        p=high[events] >> 7,
        offset=lambda event: piece.shift + 5 * int(events[event]),
        taken=5 * number,
        state=passed + int(overflow.sum()) * OVERFLOW,
    )


def looks_like_bits40(content: bytes) -> bool:
    """Return whether this could be events of 40 bits: they have no mark, but their time does not go back."""
    if not content or len(content) % 5:
        return False
    decoded = read_bits40(content, "")
    return bool(np.all(np.diff(decoded.t) >= 0)) and len(decoded.t) > 1


def read_npz(content: bytes, where: str) -> Decoded:
    """Read arrays ``t``, ``x``, ``y``, ``p`` in one archive, as SpikingJelly leaves them, and a size if given.

    Raises:
        DataError: damaged, without one of the arrays, or with arrays of another kind.
    """
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as archive:
            return _from_arrays({name: archive[name] for name in _wanted(archive)}, where)
    except DataError:
        raise
    except BROKEN as error:
        raise _unreadable(where, "an archive of numpy", error) from error


def read_npy(content: bytes, where: str) -> Decoded:
    """Return one array with a field for each of ``t``, ``x``, ``y`` and ``p``, as tonic leaves it.

    Raises:
        DataError: damaged, or without one of the fields.
    """
    try:
        array = np.load(io.BytesIO(content), allow_pickle=False)
    except BROKEN as error:
        raise _unreadable(where, "an array of numpy", error) from error
    return _from_arrays({name: array[name] for name in array.dtype.names or ()}, where)


def read_text(content: bytes, where: str, piece: Piece = WHOLE) -> Decoded:
    """Read lines of time in seconds, column, row and polarity, behind lines that begin with ``#``.

    Raises:
        DataError: a line that is no event; names it.
    """
    before, begun = piece.state or (0, False)  # lines in front of these, and whether an event was among them
    taken = content.rfind(b"\n") + 1
    if piece.last or len(content) - taken > LONGEST_LINE:
        taken = len(content)
    lines = content[:taken].split(b"\n")
    last = len(lines) - (not lines[-1].strip())
    first = 0 if begun else next((n for n in range(last) if not _is_remark(lines[n])), last)
    for number in range(first, last):
        if not TEXT_LINE.fullmatch(lines[number].strip()):
            text = brief(lines[number].decode("latin1"))
            place = f"line {before + number + 1:,}"
            raise DataError(f"{where}: {place} is no event (seconds, x, y, polarity): {text}")
    table = np.array([line.split() for line in lines[first:last]], dtype="S32").reshape(-1, 4)
    t, (x, y, p) = _microseconds(table[:, 0].astype(np.float64), where), table[:, 1:].astype(np.int64).T
    return Decoded(t, x, y, p, taken=taken, state=(before + len(lines) - 1, begun or first < last))


def _is_remark(line: bytes) -> bool:
    """Return whether it may stand in front of the first event."""
    return not line.strip() or line.startswith(b"#")


TEXT_LINE = re.compile(rb"\d{1,10}(\.\d{1,12})?\s+\d{1,6}\s+\d{1,6}\s+[01]")


def looks_like_text(content: bytes) -> bool:
    """Return whether the first line that is no comment is an event."""
    lines = content[:100_000].split(b"\n")
    first = next((line.strip() for line in lines if not _is_remark(line)), b"")
    return TEXT_LINE.fullmatch(first) is not None


def read_hdf5(content: bytes, where: str) -> Decoded:
    """Read data sets ``t``, ``x``, ``y``, ``p`` (or ``ts``, ``xs``, ``ys``, ``ps``) in ``events`` or at the root.

    Times that are no whole numbers are seconds. A number ``t_offset`` at the root, as in DSEC, is added to all times.

    Raises:
        DataError: damaged, without one of them, or compressed by what is not installed.
        MissingExtra: h5py is not installed.
    """
    h5py = import_optional("h5py", extra="events", purpose="HDF5")
    import_optional("hdf5plugin", extra="events", purpose="HDF5")  # the compressions that cameras write with
    try:
        with h5py.File(io.BytesIO(content), "r") as file:
            group = file.get("events", file)
            if not isinstance(group, h5py.Group):
                raise DataError(f"{where}: its events are no group of t, x, y and p")
            arrays = {name: _dataset(group[name], where) for name in _wanted(group)}
            arrays |= {name: np.asarray(file.attrs[name]) for name in ("width", "height") if name in file.attrs}
            shift = int(file["t_offset"][()]) if "t_offset" in file else 0
    except DataError:
        raise
    except BROKEN as error:
        raise _unreadable(where, "HDF5", error) from error
    decoded = _from_arrays(arrays, where)
    return Decoded(decoded.t + shift, decoded.x, decoded.y, decoded.p, decoded.sensor)


def _dataset(dataset: Any, where: str) -> npt.NDArray[Any]:
    """Read all of it, unless it claims more than any recording has: missing chunks take no room in a file."""
    if dataset.size is None or dataset.size > MOST_EVENTS:
        raise DataError(f"{where} claims {dataset.size} events, more than any recording has")
    return dataset[()]


def _wanted(names: Any) -> list[str]:
    known = {name for same in NAMES.values() for name in same} | {"width", "height"}
    return [name for name in names if name in known]


def _from_arrays(arrays: Mapping[str, npt.NDArray[Any]], where: str) -> Decoded:
    found = {}
    for name, same in NAMES.items():
        given = next((other for other in same if other in arrays), None)
        if given is None:
            raise DataError(
                f"{where} has no {' or '.join(same)}; it holds {', '.join(map(brief, arrays)) or 'nothing'}"
            )
        found[name] = arrays[given]
    lengths = {name: list(array.shape) for name, array in found.items()}
    if len({tuple(shape) for shape in lengths.values()}) > 1 or found["t"].ndim != 1:
        raise DataError(f"{where}: t, x, y and p are rows of one length, they are {lengths}")
    for name, array in found.items():
        if array.dtype.kind not in ("iub" if name != "t" else "iuf"):
            raise DataError(f"{where}: {name} is of whole numbers, it is {array.dtype}")
    if found["t"].dtype.kind == "f":
        found["t"] = _microseconds(found["t"], where)
    if found["p"].dtype.kind == "i" and len(found["p"]) and found["p"].min() == -1:
        if not np.isin(found["p"], (-1, 1)).all():
            raise DataError(f"{where}: polarities are -1 and 1, or 0 and 1, and these are mixed")
        found["p"] = found["p"] > 0
    return Decoded(found["t"], found["x"], found["y"], found["p"], _sensor(arrays, where))


def _sensor(arrays: Mapping[str, npt.NDArray[Any]], where: str) -> tuple[int, int] | None:
    sides = [arrays[name] for name in ("width", "height") if name in arrays]
    if len(sides) < 2:
        return None
    if any(side.size != 1 or side.dtype.kind not in "iu" for side in sides):
        raise DataError(f"{where}: width and height are one whole number each")
    return int(sides[0].item()), int(sides[1].item())


def _microseconds(seconds: npt.NDArray[Any], where: str) -> npt.NDArray[np.int64]:
    if len(seconds) and not (np.isfinite(seconds).all() and np.abs(seconds).max() < 2**43):
        raise DataError(f"{where}: times in seconds are finite, and less than 2**43")
    return np.rint(seconds.astype(np.float64) * 1e6).astype(np.int64)


def _unreadable(where: str, kind: str, error: BaseException) -> DataError:
    return DataError(
        f"{where} cannot be read as {kind} ({brief(str(error) or type(error).__name__, 200)}): is it whole?"
    )

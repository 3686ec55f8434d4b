"""Recordings of event cameras: files of every format, and frames."""

from isospike.events.frames import bins_of_count, bins_of_time, integrate, windows_of_count, windows_of_time
from isospike.events.read import FORMATS, Format, decode, read
from isospike.events.recording import Decoded, Events

__all__ = [
    "FORMATS",
    "Decoded",
    "Events",
    "Format",
    "bins_of_count",
    "bins_of_time",
    "decode",
    "integrate",
    "read",
    "windows_of_count",
    "windows_of_time",
]

"""Recordings of event cameras: files of every format, a simulated camera, and frames."""

from isospike.events.camera import Camera, moved, random_walk, saccades
from isospike.events.frames import (
    bins_of_count,
    bins_of_time,
    first_of_count,
    first_of_time,
    integrate,
    windows_of_count,
    windows_of_time,
)
from isospike.events.pieces import read_pieces
from isospike.events.read import FORMATS, Format, decode, read
from isospike.events.recording import Decoded, Events

__all__ = [
    "FORMATS",
    "Camera",
    "Decoded",
    "Events",
    "Format",
    "bins_of_count",
    "bins_of_time",
    "decode",
    "first_of_count",
    "first_of_time",
    "integrate",
    "moved",
    "random_walk",
    "read",
    "read_pieces",
    "saccades",
    "windows_of_count",
    "windows_of_time",
]

"""Recordings of event cameras: files of every format, frames, augmentation, a simulated camera."""

from isospike.events.read import FORMATS, Format, decode, read
from isospike.events.recording import Decoded, Events

__all__ = ["FORMATS", "Decoded", "Events", "Format", "decode", "read"]

"""Recordings that are read part by part, streamed and shown, out of damaged files."""

from pathlib import Path

import numpy as np
import torch

import isospike as iso
from fuzz_data import make_recordings
from fuzz_subject import Subject, in_bytes
from isospike.errors import DataError
from isospike.events import pieces
from isospike.report.recording import recording_sections

LATE = 10**15  # microseconds: as if all had been sorted, unless a damaged time is thousands of years away
LARGEST = (65_536, 65_536)


def read_in_pieces(folder: Path, damaged: Path) -> object:
    """Part by part as whole; or one of the two refuses it, and the whole one alone never does."""
    format = damaged.suffix[1:]
    pieces.BLOCK = 100  # so that every file has parts
    parts = list(iso.events.read_pieces(damaged, format=format, late=LATE))
    whole = iso.events.read(damaged, format=format, sort=True)
    for name in "txyp":
        assert np.array_equal(np.concatenate([getattr(part, name) for part in parts]), getattr(whole, name))
    return whole


def show_and_stream(folder: Path, damaged: Path) -> object:
    """Pages and decisions of whatever can be read."""
    events = iso.events.read(damaged, format=damaged.suffix[1:], sort=True)
    if not len(events):
        raise DataError(f"{damaged} holds no events")
    torch.manual_seed(0)
    model = iso.create_model("ms_resnet8", width=4, in_channels=2, num_classes=3, T=2)
    model.inputs = iso.Inputs(16, (0.0,) * 2, (1 / 255,) * 2, T=2)
    stream = iso.Stream(model, count=50, sensor=events.sensor or LARGEST)
    return recording_sections(events), list(stream.run([events]))


EVENTS = {
    "parts of recordings": Subject(make_recordings, in_bytes, read_in_pieces),
    "recordings to show": Subject(make_recordings, in_bytes, show_and_stream),
}

"""Curves for TensorBoard, beside ``metrics.jsonl``."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from isospike.errors import MissingExtra
from isospike.optional import import_optional
from isospike.train.display import Display


class Board:
    """Writes the figures of records as ``{split}/{figure}``, whole epochs as ``{split}_epoch/{figure}``."""

    def __init__(self, writer: Any) -> None:
        self._writer = writer

    def write(self, record: Mapping[str, Any]) -> None:
        """All numbers of a record at its step."""
        group = record["split"] + ("_epoch" if record["kind"] == "epoch" else "")
        for name, value in record.items():
            if isinstance(value, int | float) and name not in ("step", "epoch"):
                self._writer.add_scalar(f"{group}/{name}", value, record["step"])

    def close(self) -> None:
        """Write out what is left."""
        self._writer.close()


def open_board(run: Path, step: int, display: Display) -> Board | None:
    """A board in ``run/tensorboard`` from ``step`` on, or None, said aloud, where TensorBoard is not installed."""
    try:
        import_optional("tensorboard", extra="train", purpose="TensorBoard")
    except MissingExtra as missing:
        display.say(f"{missing}. Training goes on without it; metrics.jsonl has all figures.")
        return None
    from torch.utils.tensorboard import SummaryWriter

    return Board(SummaryWriter(str(run / "tensorboard"), purge_step=step + 1 if step else None))

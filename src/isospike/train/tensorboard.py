"""Curves for TensorBoard, beside ``metrics.jsonl``."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from isospike.errors import MissingExtra
from isospike.optional import import_optional
from isospike.train.display import Display
from isospike.writing import cannot_write


class Board:
    """Writes the figures of records as ``{split}/{figure}``, whole epochs as ``{split}_epoch/{figure}``."""

    def __init__(self, folder: Path, purge_step: int | None) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._folder = folder
        with self._as_sentence():
            self._writer = SummaryWriter(str(folder), purge_step=purge_step)

    def write(self, record: Mapping[str, Any]) -> None:
        """Write all numbers of a record at its step.

        Raises:
            RunFailed: the disk does not take them.
        """
        group = record["split"] + ("_epoch" if record["kind"] == "epoch" else "")
        with self._as_sentence():
            for name, value in record.items():
                if isinstance(value, int | float) and name not in ("step", "epoch"):
                    self._writer.add_scalar(f"{group}/{name}", value, record["step"])

    def close(self) -> None:
        """Write out what is left; raises as ``write``."""
        with self._as_sentence():
            self._writer.close()

    @contextmanager
    def _as_sentence(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise cannot_write(self._folder, error) from error


def open_board(run: Path, step: int, display: Display) -> Board | None:
    """Open a board in ``run/tensorboard`` from ``step`` on, or say that TensorBoard is not installed."""
    try:
        import_optional("tensorboard", extra="train", purpose="TensorBoard")
    except MissingExtra as missing:
        display.say(f"{missing}. Training goes on without it; metrics.jsonl has all figures.")
        return None
    return Board(run / "tensorboard", purge_step=step + 1 if step else None)

"""The run folder: the only thing that training, analysis and report share.

config.yaml env.json metrics.jsonl flow.jsonl checkpoints/ model.safetensors analysis/*.json report.html; of a converted
network also network.json and ann/
"""

import fcntl
import json
import os
import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from isospike.config import RunConfig, read_config, read_yaml
from isospike.errors import ConfigError, IsospikeWarning
from isospike.limits import read_at_most
from isospike.own_rows import imports_again
from isospike.text import brief
from isospike.writing import atomic_write, cannot_write

LARGEST_JSON = 200_000_000  # bytes; the confusions of 1,000 classes take 5 million
LARGEST_RECORDS = 2_000_000_000  # of a run of ten million steps
DAMAGED = (ValueError, RecursionError)  # what json raises: for no JSON, no UTF-8, too many digits, too many levels
# What comes of JSON that is another than isospike writes, where its values are used.
MISREAD = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError)
NUMBER = (int, float)
# Keys that records have where they apply, and the kind of their values.
RECORD: dict[str, type | tuple[type, ...]] = {
    "kind": str, "split": str, "epoch": int, "step": int, "loss": NUMBER, "accuracy": NUMBER, "lr": NUMBER,
    "images_per_s": NUMBER, "peak_memory_mb": NUMBER, "seconds": NUMBER, "grad_norm": NUMBER, "left_out": int,
}  # fmt: skip


class RunFolder:
    """Paths and small files of one run."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    @property
    def config(self) -> Path:
        """The file of the configuration."""
        return self.path / "config.yaml"

    @property
    def environment(self) -> Path:
        """The file of what the run began on."""
        return self.path / "env.json"

    @property
    def metrics(self) -> Path:
        """The file of metrics, a JSON object per line."""
        return self.path / "metrics.jsonl"

    @property
    def flow(self) -> Path:
        """The file of what fired and flowed in training, an object per line; none where nothing was watched."""
        return self.path / "flow.jsonl"

    @property
    def weights(self) -> Path:
        """The file of the weights at the end of training."""
        return self.path / "model.safetensors"

    @property
    def report(self) -> Path:
        """The page for people."""
        return self.path / "report.html"

    @property
    def ann(self) -> Path:
        """The ANN that a converted network was made of, a folder of ``save_pretrained``; other runs have none."""
        return self.path / "ann"

    def checkpoint(self, name: str) -> Path:
        """Return the checkpoint called "last" or "best"."""
        return self.path / "checkpoints" / f"{name}.safetensors"

    def analysis(self, name: str) -> Path:
        """Return a result by its name, such as "test"."""
        return self.path / "analysis" / f"{name}.json"

    def create(self, config: RunConfig, environment: Mapping[str, Any]) -> None:
        """Make the folder for a new run.

        Raises:
            ConfigError: there is a run in it already, or the folder cannot be made.
            RunFailed: the disk does not take what is written.
        """
        if self.config.exists():
            raise ConfigError(
                f"{self.path} already holds a run: continue it with --resume {self.path}{imports_again()}, "
                "or name another --out"
            )
        try:
            for folder in (self.path, self.path / "checkpoints", self.path / "analysis"):
                folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"cannot write the run folder {self.path}: {error.strerror}") from error
        write_text(self.config, config.to_yaml())
        write_json(self.environment, environment)

    def locked(self) -> AbstractContextManager[None]:
        """Keep other processes from training in this folder, inside the block; raises as ``locked`` below."""
        return locked(self.path, "run")

    def check_space(self, needed: int) -> None:
        """Refuse to begin what cannot be saved.

        Raises:
            ConfigError: the folder cannot be written, or its disk has fewer than ``needed`` bytes left.
        """
        probe = self.path / "checkpoints" / ".probe"
        try:
            probe.parent.mkdir(parents=True, exist_ok=True)
            probe.write_bytes(b"probe")
            probe.unlink()
        except OSError as error:
            with suppress(OSError):  # a full disk may have taken its name
                probe.unlink()
            raise ConfigError(f"cannot write to {probe.parent}: {error.strerror}") from error
        free = shutil.disk_usage(self.path).free
        if free < needed:
            raise ConfigError(
                f"the disk of {self.path} has {free / 1e6:,.0f} MB left, and the checkpoints of this run take "
                f"{needed / 1e6:,.0f} MB: free some space or name another --out"
            )

    def read_config(self) -> RunConfig:
        """Return the configuration of the run.

        Raises:
            ConfigError: there is no run here, or its configuration is damaged.
        """
        if not self.config.is_file():
            raise ConfigError(f"{self.path} is not a run folder: it holds no config.yaml")
        return read_config(read_yaml(self.config), str(self.config))

    def keep_epochs(self, epochs: int) -> None:
        """Write the number of epochs into the configuration, where it is another.

        Raises:
            RunFailed: the disk does not take it.
        """
        config = self.read_config()
        if config.train.epochs != epochs:
            train = config.train.model_copy(update={"epochs": epochs})
            write_text(self.config, config.model_copy(update={"train": train}).to_yaml())

    def read_metrics(self) -> list[dict[str, Any]]:
        """Return all whole records; a last line that was torn when the run was killed is left out.

        Raises:
            ConfigError: a line before the last one is damaged.
        """
        records, damaged = read_records(self.metrics)
        if damaged:
            raise ConfigError(damaged)
        return records

    def write_analyses(self, results: Mapping[str, Any]) -> None:
        """Write results by their names.

        Raises:
            RunFailed: the disk does not take them.
        """
        for name, result in results.items():
            write_json(self.analysis(name), result)

    def read_analysis(self, name: str) -> dict[str, Any] | None:
        """Return a result, or None where it has not been made.

        Raises:
            ConfigError: it is damaged, or holds no keys and values.
        """
        path = self.analysis(name)
        if not path.is_file():
            return None
        result = read_json(path)
        if not isinstance(result, dict):
            raise ConfigError(f"{path} must hold keys and values, not a {type(result).__name__}")
        return result


class MetricsWriter:
    """Appends records to a file, a line each, from ``size`` bytes on: what a killed run wrote after that is dropped."""

    def __init__(self, path: Path, size: int) -> None:
        self._path = path
        try:
            self._file = path.open("ab", buffering=0)  # unbuffered: a line that fails is not tried again by ``close``
            self._file.truncate(size)
        except OSError as error:
            raise ConfigError(f"cannot write {path}: {error.strerror}") from error

    def write(self, record: Mapping[str, Any]) -> None:
        """Append one record; it is on its way to the disk when this returns.

        Raises:
            RunFailed: the disk does not take it.
        """
        rest = (json.dumps(record) + "\n").encode()
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            raise cannot_write(self._path, error) from error

    @property
    def size(self) -> int:
        """Bytes written so far, those before this writer included."""
        return os.fstat(self._file.fileno()).st_size

    def close(self) -> None:
        """Close the file.

        Raises:
            RunFailed: the disk has not taken all of it.
        """
        try:
            self._file.close()
        except OSError as error:
            raise cannot_write(self._path, error) from error


@contextmanager
def locked(path: Path, what: str) -> Iterator[None]:
    """Keep other processes from ``what`` in a folder, inside the block.

    The lock is this process's alone and not its children's, so the system lifts it when this process is gone, however
    it ends. Where the file system has no locks, a warning says so.

    Raises:
        ConfigError: another process holds the lock, or the folder cannot be written.
    """
    try:
        file = (path / ".lock").open("w")
    except OSError as error:
        raise ConfigError(f"cannot write {path / '.lock'}: {error.strerror}") from error
    with file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:  # POSIX allows either
            raise ConfigError(f"another process is working on the {what} in {path}: wait for it, or stop it") from error
        except OSError as error:
            warnings.warn(
                f"{path} cannot be locked ({error.strerror}): take care that no second process works on it",
                IsospikeWarning,
                stacklevel=2,
            )
        yield


def new_folder(name: str) -> Path:
    """Return a folder below ``runs/`` for a new run or sweep, named after its recipe, that is not taken yet.

    Raises:
        ConfigError: the name leads out of ``runs/``.
    """
    path = Path(os.path.normpath(Path("runs") / name))
    if Path("runs") not in path.parents:
        raise ConfigError(f"the recipe is called '{name}', which names no folder below runs/: name one with --out")
    return next_free(path)


def next_free(path: Path) -> Path:
    """Return ``path``, or with the first number behind it that is not taken: a new run never touches an old one."""
    number, free = 1, path
    while free.exists():
        number += 1
        free = path.with_name(f"{path.name}-{number}")
    return free


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all.

    Raises:
        RunFailed: the disk does not take it; what was there before is untouched.
    """
    with atomic_write(path) as part:
        part.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file, and the folder it lies in, whole or not at all; raises as ``write_text``."""
    with atomic_write(path) as part:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")


@contextmanager
def noting_files() -> Iterator[list[Path]]:
    """Note the JSON files that are read inside the block, so that an error can name them."""
    files: list[Path] = []
    token = _noted.set(files)
    try:
        yield files
    finally:
        _noted.reset(token)


_noted: ContextVar[list[Path] | None] = ContextVar("noted", default=None)


def misread(files: Sequence[Path], error: BaseException) -> str:
    """Return a sentence about files whose JSON is not what isospike writes; ``error`` is one of ``MISREAD``."""
    names = " or ".join(map(str, dict.fromkeys(files))) or "a file of this run"
    if isinstance(error, KeyError):
        return f"{names} lacks {brief(str(error))}: another version wrote it; make it anew"
    return f"{names} holds another kind of value than isospike writes ({brief(str(error))}): make it anew"


def read_records(path: Path) -> tuple[list[dict[str, Any]], str]:
    """Return the records of a file with one per line, none where there is no file.

    A last line that was torn when the run was killed is left out, and so are damaged ones before it.

    Returns:
        What could be read, and a sentence about the first line before the last that could not; "" for none.
    """
    if not path.is_file():
        return [], ""
    try:
        text = _read(path, LARGEST_RECORDS).decode("utf-8", errors="replace")
    except OSError as error:
        return [], f"{path} cannot be read: {error.strerror}"
    records, damaged = [], ""
    for number, line in enumerate(text.split("\n")[:-1], start=1):
        try:
            records.append(_record(line))
        except DAMAGED as error:
            damaged = damaged or f"{path}, line {number} is damaged: {brief(str(error))}"
    return records, damaged


def _record(line: str) -> dict[str, Any]:
    """Read one line; what every record has is of its kind.

    Raises:
        ValueError: it is no JSON, or not such a record.
    """
    record = json.loads(line)
    if not isinstance(record, dict):
        raise ValueError(f"it holds a {type(record).__name__}, not keys and values")
    for key, kind in RECORD.items():
        if key in record and (not isinstance(record[key], kind) or isinstance(record[key], bool)):
            raise ValueError(f"its {key} is {brief(repr(record[key]))}")
    return record


def read_json(path: Path) -> Any:
    """Return the value in a JSON file.

    Raises:
        ConfigError: it is damaged, or larger than ``LARGEST_JSON`` bytes.
    """
    try:
        return json.loads(_read(path, LARGEST_JSON).decode("utf-8"))
    except (OSError, *DAMAGED) as error:
        raise ConfigError(f"{path} cannot be read as JSON: {brief(str(error), 200)}") from error


def _read(path: Path, most: int) -> bytes:
    noted = _noted.get()
    if noted is not None:
        noted.append(path)
    return read_at_most(path, most)

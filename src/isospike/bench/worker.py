"""The bench's side of a contestant: a process that is asked one thing at a time."""

import json
import os
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any

from isospike.errors import RunFailed

# How glibc allocates, for every contestant alike. Times: what is freed is kept, as `isospike train` has it
# (malloc.py). Peaks: every tensor is mapped by itself and given back, so that no gap between two is counted.
KEEPS = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "2147483647"}
GIVES_BACK = {"MALLOC_MMAP_THRESHOLD_": "65536"}


class Worker:
    """A contestant in a process of its own.

    Args:
        name: What messages call it.
        command: Starts it; it answers as ``peers/serve.py`` says.
        threads: Of its processor.
        allocator: Environment variables of its allocator.
    """

    def __init__(
        self, name: str, command: Sequence[str], threads: int, allocator: Mapping[str, str] = MappingProxyType(KEEPS)
    ) -> None:
        self.name = name
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115  # open as long as the process runs
        environment = {**os.environ, **allocator, "OMP_NUM_THREADS": str(threads)}
        pipe = subprocess.PIPE
        try:
            self._process = subprocess.Popen(
                command, stdin=pipe, stdout=pipe, stderr=self._errors, text=True, env=environment
            )
        except OSError as error:
            raise RunFailed(f"the contestant '{name}' cannot be started: {error}") from error

    def prepare(self, job: Mapping[str, Any]) -> dict[str, str]:
        """Build the work, and return the versions of what it runs on."""
        return self._ask(do="prepare", job=dict(job))["versions"]

    def run(self, least: float = 0.0) -> float:
        """Run the work until ``least`` seconds are full, and return the median seconds of a run."""
        return self._ask(do="run", seconds=least)["seconds"]

    def memory(self) -> float:
        """Return the peak megabytes since the work was built, above what was held before."""
        return self._ask(do="memory")["peak_mb"]

    def outputs(self, file: Path) -> None:
        """Write what the work computes."""
        self._ask(do="outputs", file=str(file))

    def close(self) -> None:
        """End the process."""
        if self._process.stdin is not None:
            try:
                self._process.stdin.close()
                self._process.wait(timeout=10)
            except (BrokenPipeError, subprocess.TimeoutExpired):
                self._process.kill()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._errors.close()

    def __enter__(self) -> "Worker":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _ask(self, **request: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._ended() from None
        line = self._process.stdout.readline()
        if not line:
            raise self._ended()
        answer = json.loads(line)
        if "error" in answer:
            raise RunFailed(f"the contestant '{self.name}' failed at '{request['do']}': {answer['error']}")
        return answer

    def _ended(self) -> RunFailed:
        self._errors.seek(0)
        said = self._errors.read().strip().splitlines()
        return RunFailed(f"the contestant '{self.name}' ended: {said[-1] if said else 'without a word'}")

"""Contestants of a bench in this process: to start one of its own takes seconds."""

import importlib
import json
from pathlib import Path

import pytest

from isospike.bench import contestants, measure
from isospike.bench.ours import build
from isospike.bench.peers.serve import Session
from isospike.bench.worker import KEEPS, Worker


class Here(Worker):
    """A contestant that answers as one in a process of its own does."""

    def __init__(self, name, build, versions):
        self.name, self._session = name, Session(build, versions)

    def _ask(self, **request):
        return json.loads(json.dumps(self._session.answer(json.loads(json.dumps(request)))))

    def close(self):
        pass


@pytest.fixture
def near(monkeypatch):
    """Measures contestants that run in our environment here, and all others as ever."""
    monkeypatch.syspath_prepend(str(contestants.SCRIPTS))

    def start(name, command, threads, allocator=KEEPS):
        monkeypatch.setenv("OMP_NUM_THREADS", str(threads))
        if "isospike.bench.ours" in command:
            return Here(name, build, {"isospike": "here"})
        if Path(command[1]).stem == "on_onnxruntime":
            return Here(name, importlib.import_module("on_onnxruntime").build, {"onnxruntime": "here"})
        return Worker(name, command, threads, allocator)

    monkeypatch.setattr(measure, "Worker", start)

"""Contestants of a bench in this process: to start one of its own takes seconds."""

import importlib
import json
import textwrap
from pathlib import Path

import pytest

from isospike.bench import contestants, measure
from isospike.bench.ours import build
from isospike.bench.peers.serve import Session
from isospike.bench.worker import KEEPS, Worker

FAKE = """
import json, sys
for line in sys.stdin:
    request = json.loads(line)
    answer = {}
    if request["do"] == "prepare":
        job, answer = request["job"], {"versions": {"fake": "1"}}
    elif request["do"] == "run":
        answer = {"seconds": SECONDS}
    elif request["do"] == "memory":
        answer = {"peak_mb": 7.0}
    else:
        import torch
        given = torch.load(job["tensors"])
OUTPUTS
        torch.save(found, request["file"])
    print(json.dumps(answer), flush=True)
"""


def fake_peer_script(outputs, seconds="0.5"):
    """A peer that makes ``found`` of the tensors ``given`` and its ``job``, and takes as long as ``seconds`` says."""
    return FAKE.replace("SECONDS", seconds).replace("OUTPUTS", textwrap.indent(textwrap.dedent(outputs), 8 * " "))


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

"""A server under load on the loopback: 200 clients at a stated rate, beside slow, leaving and hostile ones.

    python benchmarks/serving.py [--seconds 600] [--clients 200] [--rate 40] [--save]

Server and clients share the machine. Every client waits for its answer before it asks again, so an answer that is late
lowers the rate that is held. What is asked of each kind: clients get 200, slow ones 408, hostile ones 4xx, streams one
decision for each frame. The memory of the server is its resident set, every five seconds.
"""

import argparse
import asyncio
import io
import json
import random
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from statistics import median
from time import monotonic

import numpy as np
from PIL import Image
from websockets.asyncio.client import connect

from common import header, save

WEIGHTS = "ms_resnet20.digits"
TIMEOUT = 5  # seconds that the server waits for a body
SLOW, LEAVING, HOSTILE, STREAMS = 10, 10, 10, 8  # clients of each kind, beside the others


def picture(seed: int, size: int = 16) -> bytes:
    """A PNG of noise."""
    file = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size), dtype=np.uint8)
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def bomb() -> bytes:
    """A small PNG of 400 million pixels."""
    file = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(file, "PNG")
    return file.getvalue()


PICTURES = [picture(seed) for seed in range(64)]
BODIES = [b"", b"\0" * 500, PICTURES[0][:70], b"\xff" * 6_000_000, bomb(), b"%PDF-1.7" * 50, PICTURES[1][::-1]]


class Load:
    """What the clients saw."""

    def __init__(self, port: int, seconds: float, clients: int, rate: float) -> None:
        self.port, self.end, self.pause = port, monotonic() + seconds, clients / rate
        self.codes: dict[str, Counter[str]] = {}
        self.latencies: list[float] = []

    def note(self, kind: str, code: str) -> None:
        self.codes.setdefault(kind, Counter())[code] += 1

    async def ask(self, kind: str, body: bytes, announced: int | None = None) -> None:
        """One request on a connection of its own."""
        began = monotonic()
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            length = len(body) if announced is None else announced
            writer.write(
                f"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n".encode()
            )
            writer.write(body)
            await writer.drain()
            answer = await reader.read(-1)
            self.note(kind, answer[9:12].decode(errors="replace") or "none")
            if kind == "client":
                self.latencies.append(monotonic() - began)
        except ConnectionError as error:
            self.note(kind, type(error).__name__)
        finally:
            writer.close()

    async def client(self, seed: int) -> None:
        rng = random.Random(seed)
        await asyncio.sleep(rng.random() * self.pause)
        while monotonic() < self.end:
            due = monotonic() + self.pause
            await self.ask("client", rng.choice(PICTURES))
            await asyncio.sleep(max(0.0, due - monotonic()))

    async def slow(self, seed: int) -> None:
        while monotonic() < self.end - 2 * TIMEOUT:
            await self.ask("slow", b"begun", announced=5000)

    async def leaving(self, seed: int) -> None:
        rng = random.Random(seed)
        while monotonic() < self.end:
            _, writer = await asyncio.open_connection("127.0.0.1", self.port)
            body = rng.choice(PICTURES)
            cut = rng.randrange(len(body) + 1)
            writer.write(
                f"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body[:cut]
            )
            await writer.drain()
            writer.close()
            self.note("leaving", "left")
            await asyncio.sleep(0.2)

    async def hostile(self, seed: int) -> None:
        rng = random.Random(seed)
        while monotonic() < self.end:
            await self.ask("hostile", rng.choice(BODIES))
            await asyncio.sleep(0.5)

    async def stream(self, seed: int) -> None:
        rng = random.Random(seed)
        while monotonic() < self.end:
            async with connect(f"ws://127.0.0.1:{self.port}/stream") as socket:
                for step in range(1, rng.randrange(2, 40)):
                    await socket.send(rng.choice(PICTURES))
                    said = json.loads(await socket.recv())
                    self.note("stream", "decision" if said.get("steps") == step else str(said)[:80])
                    await asyncio.sleep(0.2)

    async def run(self, clients: int) -> None:
        kinds = [(self.client, clients), (self.slow, SLOW), (self.leaving, LEAVING), (self.hostile, HOSTILE)]
        kinds.append((self.stream, STREAMS))
        await asyncio.gather(*(kind(seed) for kind, count in kinds for seed in range(count)))


async def watch_memory(pid: int, end: float) -> list[float]:
    """Megabytes of the server, every five seconds."""
    found = []
    while monotonic() < end:
        status = Path(f"/proc/{pid}/status").read_text()
        found.append(int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024)
        await asyncio.sleep(5)
    return found


async def measure(seconds: float, clients: int, rate: float) -> dict[str, object]:
    command = [sys.executable, "-m", "isospike", "serve", WEIGHTS, "--port", "0", "--timeout", str(TIMEOUT)]
    server = subprocess.Popen([*command, "--waiting", "256"], stderr=subprocess.PIPE, text=True)
    try:
        port = int(re.search(r":(\d+) \(", server.stderr.readline())[1])
        await asyncio.sleep(1)
        load = Load(port, seconds, clients, rate)
        memory, _ = await asyncio.gather(watch_memory(server.pid, load.end), load.run(clients))
    finally:
        server.terminate()
        ended = server.wait(30)
    latencies = sorted(load.latencies)
    share = {f"p{p}_ms": round(latencies[int(len(latencies) * p / 100)] * 1e3, 1) for p in (50, 95, 99)}
    return {
        "seconds": seconds,
        "clients": clients,
        "asked_a_second": rate,
        "answered_a_second": round(load.codes["client"]["200"] / seconds, 2),
        "latency": {**share, "longest_ms": round(latencies[-1] * 1e3, 1)},
        "codes": {kind: dict(codes) for kind, codes in load.codes.items()},
        "memory_mb": {
            "first_minute": round(median(memory[:12]), 1),
            "last_minute": round(median(memory[-12:]), 1),
            "most": round(max(memory), 1),
            "every_minute": [round(value, 1) for value in memory[::12]],
        },
        "exit": ended,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--rate", type=float, default=40)
    parser.add_argument("--save", action="store_true")
    given = parser.parse_args()
    result = asyncio.run(measure(given.seconds, given.clients, given.rate))
    print(json.dumps(result, indent=1))
    if given.save:
        save("serving", {"header": header(" ".join(["python", "benchmarks/serving.py", *sys.argv[1:]])), **result})

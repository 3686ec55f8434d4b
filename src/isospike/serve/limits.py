"""What a client may ask of a server, and how often."""

import math
from collections import OrderedDict
from dataclasses import dataclass, fields
from time import monotonic

from isospike.errors import ConfigError

CLIENTS = 10_000  # whose rates are remembered: memory does not grow with the number of clients


@dataclass(frozen=True)
class Limits:
    """How much a server takes at once.

    Args:
        batch: Images that go through the network together.
        delay_ms: Milliseconds that an image waits for others at most, while the network is idle.
        waiting: Requests that are in progress at a time; more are answered 503.
        megabytes: Of the body of a request, and of a message of a stream.
        rate: Requests and messages a second of one client, on average over a second; None: any number.
        streams: Streams that are open at a time.
        windows: Decisions that one message of a stream may ask for.
        timeout_s: Seconds in which the body of a request must arrive, and the next message of a stream.

    Raises:
        ConfigError: one of them is out of its range.
    """

    batch: int = 32
    delay_ms: float = 5.0
    waiting: int = 128
    megabytes: float = 4.0
    rate: float | None = None
    streams: int = 64
    windows: int = 1000
    timeout_s: float = 30.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value, least = getattr(self, field.name), 0.0 if field.name == "delay_ms" else None
            if value is None:
                continue
            if not math.isfinite(value) or value < (least or 0) or (least is None and value <= 0):
                raise ConfigError(f"{field.name} must be {'0 or more' if least == 0.0 else 'more than 0'}, got {value}")

    @property
    def bytes(self) -> int:
        """``megabytes`` in bytes."""
        return int(self.megabytes * 1e6)


class Rates:
    """A bucket of a second's requests for every client, which fills at ``rate`` (token bucket)."""

    def __init__(self, rate: float | None) -> None:
        self._rate = rate
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait(self, client: str) -> float:
        """Return 0 and count a request of ``client``, or the seconds after which it may ask again."""
        if self._rate is None:
            return 0.0
        now, size = monotonic(), max(self._rate, 1.0)
        left, then = self._buckets.pop(client, (size, now))
        left = min(size, left + (now - then) * self._rate)
        allowed = left >= 1
        self._buckets[client] = (left - 1 if allowed else left, now)
        if len(self._buckets) > CLIENTS:
            self._buckets.popitem(last=False)
        return 0.0 if allowed else (1 - left) / self._rate

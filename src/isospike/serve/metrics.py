"""What a server counts, in the text format of Prometheus."""

from typing import Any

from isospike.optional import import_optional

LATENCIES = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)  # seconds
SIZES = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """Counters of one server; ``text`` is what ``/metrics`` answers."""

    def __init__(self) -> None:
        prometheus: Any = import_optional("prometheus_client", extra="serve", purpose="isospike serve")
        self._registry = registry = prometheus.CollectorRegistry()
        self._write = prometheus.generate_latest
        self.content_type: str = prometheus.CONTENT_TYPE_LATEST
        self.requests = prometheus.Counter(
            "isospike_requests", "Answers to requests for a prediction.", ["code"], registry=registry
        )
        self.seconds = prometheus.Histogram(
            "isospike_request_seconds", "From the request to the answer.", buckets=LATENCIES, registry=registry
        )
        self.batches = prometheus.Histogram(
            "isospike_batch_images", "Images of a batch.", buckets=SIZES, registry=registry
        )
        self.waiting = prometheus.Gauge("isospike_requests_in_progress", "Requests in progress.", registry=registry)
        self.streams = prometheus.Gauge("isospike_streams_open", "Streams that are open.", registry=registry)
        self.decisions = prometheus.Counter("isospike_decisions", "Decisions of streams.", registry=registry)

    def text(self) -> bytes:
        """Write all of them."""
        return self._write(self._registry)

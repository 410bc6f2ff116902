"""What the service counts, for Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Measures:
    """The counters of one service."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Counter("vlp_requests", "requests answered", ("route", "status"), registry=registry)
        self.seconds = Histogram(
            "vlp_request_seconds", "seconds to the answer", ("route",), buckets=SECONDS, registry=registry
        )
        self.batch = Histogram("vlp_batch_questions", "questions answered together", buckets=SIZES, registry=registry)
        self.waiting = Gauge("vlp_waiting_questions", "questions that are waited for", registry=registry)
        self.pictures = Gauge("vlp_index_pictures", "pictures in the index", registry=registry)
        self.swaps = Gauge("vlp_index_swaps", "new versions of the index since the start", registry=registry)

    def text(self) -> bytes:
        """All of it in Prometheus's text format."""
        return generate_latest(self.registry)

"""What the service counts, for Prometheus."""

from __future__ import annotations

from math import nan
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

if TYPE_CHECKING:
    from eval.search.gallery import Gallery

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
        self.recall = Gauge("vlp_index_recall", "recall@10 of the queries kept with the index", registry=registry)
        self.recall_built = Gauge("vlp_index_recall_built", "the same when the index was built", registry=registry)

    def index(self, gallery: Gallery, swaps: int) -> None:
        """Take down what is asked now, and how many versions came before it."""
        self.pictures.set(len(gallery.vectors))
        self.swaps.set(swaps)
        measured = gallery.about.get("measured", {})
        self.recall.set(measured.get("recall", nan))
        self.recall_built.set(measured.get("built", nan))

    def text(self) -> bytes:
        """All of it in Prometheus's text format."""
        return generate_latest(self.registry)

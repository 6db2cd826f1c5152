"""What Prometheus scrapes: requests as they are answered, queue and workers as they stand."""

from __future__ import annotations

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

__all__ = ["Metrics"]

KNOWN_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class Metrics:
    """The metrics of one application; each has its own registry, so that two in a process do not mix."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "ihvp_http_requests",
            "Requests answered, by method, route and status.",
            ["method", "route", "status"],
            registry=self.registry,
        )
        self._seconds = Histogram(
            "ihvp_http_request_seconds",
            "Seconds until the answer was complete; long polls and streams count while they are held.",
            ["method", "route"],
            buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 15.0),
            registry=self.registry,
        )
        # Looking labels up costs more than counting.
        self._by_request: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}
        self._submitted = Counter(
            "ihvp_jobs_submitted", "Jobs accepted, by inversion method.", ["method"], registry=self.registry
        )
        self._store_up = Gauge("ihvp_store_up", "1 while the job store answers.", registry=self.registry)
        self._queue = Gauge("ihvp_queue_length", "Jobs that wait for a worker.", registry=self.registry)
        self._workers = Gauge("ihvp_workers", "Live workers.", registry=self.registry)

    def count_request(self, method: str, route: str, status: int, seconds: float) -> None:
        """Notes an answered request; status 0 is a caller who left before the answer."""
        # Callers choose the method, and each new label is kept for good.
        method = method if method in KNOWN_METHODS else "other"
        key = (method, route, status)
        found = self._by_request.get(key)
        if found is None:
            found = (self._requests.labels(method, route, str(status)), self._seconds.labels(method, route))
            self._by_request[key] = found
        found[0].inc()
        found[1].observe(seconds)

    def count_submission(self, method: str) -> None:
        """Notes an accepted job."""
        self._submitted.labels(method).inc()

    def render(self, *, queue_length: int | None, workers: int | None) -> bytes:
        """The exposition text; None where the store did not answer."""
        self._store_up.set(0 if queue_length is None else 1)
        # NaN is Prometheus' way to say unknown; a zero would look like an empty queue.
        self._queue.set(float("nan") if queue_length is None else queue_length)
        self._workers.set(float("nan") if workers is None else workers)
        return generate_latest(self.registry)

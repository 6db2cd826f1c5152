"""What Prometheus scrapes: requests as they are answered, queue and workers as they stand."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.metrics_core import HistogramMetricFamily
from prometheus_client.registry import Collector

from ihvp.costs.observation import ERROR_BOUNDS
from ihvp.methods import InversionMethod

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
        self._prediction_errors = _PredictionErrors()
        self.registry.register(self._prediction_errors)

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

    def render(
        self,
        *,
        queue_length: int | None,
        workers: int | None,
        prediction_errors: Mapping[InversionMethod, Sequence[int]],
    ) -> bytes:
        """The exposition text; None, or no method, where the store did not answer."""
        self._prediction_errors.counts = prediction_errors
        self._store_up.set(0 if queue_length is None else 1)
        # NaN is Prometheus' way to say unknown; a zero would look like an empty queue.
        self._queue.set(float("nan") if queue_length is None else queue_length)
        self._workers.set(float("nan") if workers is None else workers)
        return generate_latest(self.registry)


class _PredictionErrors(Collector):
    """Workers have no port of their own, so the store counts for all of them, and this shows its counts."""

    def __init__(self) -> None:
        self.counts: Mapping[InversionMethod, Sequence[int]] = {}

    def collect(self) -> Iterable[HistogramMetricFamily]:
        """The family; without a sum, which Prometheus forbids where values may be negative."""
        family = HistogramMetricFamily(
            "ihvp_prediction_log_error",
            "ln(actual / predicted seconds) of solves, each of one job or of several together, by inversion method.",
            labels=["method"],
        )
        for method, counts in self.counts.items():
            below = [sum(counts[: number + 1]) for number in range(len(ERROR_BOUNDS))]
            buckets = [
                ("+Inf" if math.isinf(bound) else str(bound), count)
                for bound, count in zip(ERROR_BOUNDS, below, strict=True)
            ]
            family.add_metric([method.value], buckets, sum_value=None)
        yield family

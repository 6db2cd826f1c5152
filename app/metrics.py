"""What Prometheus scrapes: requests as this process answers them, and what the store has counted for all processes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)

from app.store_metrics import StoreMetrics
from app.webhook_metrics import WebhookMetrics
from ihvp import __version__
from ihvp.jobs.counts import Measurements
from ihvp.methods import InversionMethod
from ihvp.webhooks.record import Outbox

__all__ = ["Metrics"]

KNOWN_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class Metrics:
    """The metrics of one application; each has its own registry, so that two in a process do not mix."""

    def __init__(self) -> None:
        # When a counter was made is one more series for each, which nothing here asks for.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "ihvp_http_requests",
            "Requests answered, by method, route and status; status 0 is a caller who left before the answer.",
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
        self._problems = Counter(
            "ihvp_http_problems",
            "Requests answered with an error, by its stable code and status.",
            ["code", "status"],
            registry=self.registry,
        )
        # Looking labels up costs more than counting.
        self._by_request: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}
        Gauge("ihvp_build_info", "1, by the version that answers.", ["version"], registry=self.registry).labels(
            __version__
        ).set(1)
        ProcessCollector(registry=self.registry)
        self._store = StoreMetrics()
        self.registry.register(self._store)
        self._webhooks = WebhookMetrics()
        self.registry.register(self._webhooks)

    def count_request(self, method: str, route: str, status: int, seconds: float, problem: str | None = None) -> None:
        """Notes an answered request.

        Args:
            method: Of HTTP.
            route: Its template, not the path.
            status: 0 for a caller who left before the answer.
            seconds: Until the answer was complete.
            problem: The code of the error that it was answered with, if it was.
        """
        # Callers choose the method, and each new label is kept for good.
        method = method if method in KNOWN_METHODS else "other"
        key = (method, route, status)
        found = self._by_request.get(key)
        if found is None:
            found = (self._requests.labels(method, route, str(status)), self._seconds.labels(method, route))
            self._by_request[key] = found
        found[0].inc()
        found[1].observe(seconds)
        if problem is not None:
            self._problems.labels(problem, str(status)).inc()

    def render(
        self,
        measured: Measurements | None,
        *,
        live_workers: int,
        prediction_errors: Mapping[InversionMethod, Sequence[int]],
        outbox: Outbox | None,
    ) -> bytes:
        """The exposition text.

        Args:
            measured: The store; None where it did not answer.
            live_workers: Of the workers in it, those that were heard of lately.
            prediction_errors: How far predictions were off, by bucket.
            outbox: Of webhooks; None where the store did not answer.
        """
        self._webhooks.outbox = outbox
        self._store.show(measured, live_workers, prediction_errors)
        return generate_latest(self.registry)

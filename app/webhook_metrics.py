"""The outbox of webhooks as metrics: the sender has no port, so the store counts for it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from ihvp.webhooks.record import Outbox

__all__ = ["WebhookMetrics"]

UNKNOWN: Final = float("nan")
OUTCOMES: Final = ("delivered", "failed", "dead", "lost")


class WebhookMetrics(Collector):
    """Shows what was read of the outbox last.

    Attributes:
        outbox: None where the store did not answer.
    """

    def __init__(self) -> None:
        self.outbox: Outbox | None = None

    def collect(self) -> Iterable[Metric]:
        """All families."""
        seen = self.outbox
        tries = CounterMetricFamily(
            "ihvp_webhook_tries",
            "Tries of deliveries that ended: delivered, failed (to be tried again), dead (the last one failed), lost "
            "(their sender died).",
            labels=["outcome"],
        )
        if seen is not None:
            for outcome in OUTCOMES:
                tries.add_metric([outcome], seen.counts.get(outcome, 0))
        yield tries
        yield _gauge("due", "Deliveries that could be tried now.", None if seen is None else seen.due)
        yield _gauge("waiting", "Deliveries that wait for a later try.", None if seen is None else seen.waiting)
        yield _gauge("sending", "Deliveries that are being sent.", None if seen is None else seen.sending)
        yield _gauge("dead", "Deliveries that are tried no more.", None if seen is None else seen.dead)
        yield _gauge(
            "oldest_due_seconds",
            "For how long the first of those due has been.",
            None if seen is None else seen.oldest_due_s,
        )


def _gauge(name: str, text: str, value: float | None) -> Metric:
    return GaugeMetricFamily(f"ihvp_webhook_{name}", text, value=UNKNOWN if value is None else value)

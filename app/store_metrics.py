"""The store's counts as metrics: workers and the reconciler have no port, so the store counts for all of them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from ihvp.costs.observation import ERROR_BOUNDS
from ihvp.jobs.counts import FAMILIES, Family, Measurements
from ihvp.methods import InversionMethod

__all__ = ["WORKER_GAUGES", "StoreMetrics"]

UNKNOWN: Final = float("nan")
"""Prometheus' way to say unknown; a zero would look like an empty queue."""

WORKER_GAUGES: Final[Mapping[str, str]] = {
    "gpu_memory_used_bytes": "Memory in use on the worker's GPU, by whichever process.",
    "gpu_memory_total_bytes": "Memory of the worker's GPU.",
    "gpu_memory_reserved_bytes": "Memory of the GPU that the worker's own process holds.",
    "resident_bytes": "Resident memory of the worker's solving process.",
    "kept_models": "Models that the worker keeps loaded.",
    "kept_bytes": "Bytes of the models that the worker keeps loaded.",
}


class StoreMetrics(Collector):
    """Shows what was read of the store last; a family that has counted nothing yet shows its name all the same."""

    def __init__(self) -> None:
        self._measured: Measurements | None = None
        self._live_workers = 0
        self._prediction_errors: Mapping[InversionMethod, Sequence[int]] = {}

    def show(
        self,
        measured: Measurements | None,
        live_workers: int,
        prediction_errors: Mapping[InversionMethod, Sequence[int]],
    ) -> None:
        """Takes what was read; None where the store did not answer."""
        self._measured = measured
        self._live_workers = live_workers
        self._prediction_errors = prediction_errors

    def collect(self) -> Iterable[Metric]:
        """All families that the store knows of."""
        seen = self._measured
        yield _gauge("ihvp_store_up", "1 while the job store answers.", 0 if seen is None else 1)
        yield _gauge(
            "ihvp_queue_length", "Jobs that wait for a worker.", UNKNOWN if seen is None else seen.queue_length
        )
        yield _gauge(
            "ihvp_queue_oldest_seconds",
            "Age of the oldest waiting job, since its acceptance; 0 where none waits.",
            UNKNOWN if seen is None else seen.oldest_queued_s,
        )
        yield _gauge("ihvp_workers", "Live workers.", UNKNOWN if seen is None else self._live_workers)
        states = GaugeMetricFamily("ihvp_jobs", "Jobs that are kept, by state.", labels=["state"])
        for state, number in ({} if seen is None else seen.jobs).items():
            states.add_metric([state], number)
        yield states
        yield from self._of_workers()
        yield from self._of_roles()
        counts = {} if seen is None else seen.counts
        for name, family in FAMILIES.items():
            yield _histogram(name, family, counts) if family.bounds else _counter(name, family, counts)
        yield self._of_predictions()

    def _of_workers(self) -> Iterable[Metric]:
        workers = [] if self._measured is None else self._measured.workers
        for name, text in WORKER_GAUGES.items():
            family = GaugeMetricFamily(f"ihvp_worker_{name}", text, labels=["worker"])
            for worker in workers[: self._live_workers]:
                if name in worker.gauges:
                    family.add_metric([worker.worker_id], worker.gauges[name])
            yield family

    def _of_roles(self) -> Iterable[Metric]:
        leaders = {} if self._measured is None else self._measured.leaders
        held = GaugeMetricFamily("ihvp_leader", "1 while a process holds the role.", labels=["role"])
        at = GaugeMetricFamily(
            "ihvp_leader_seen_timestamp_seconds",
            "When the role's holder last began a round, by the store's clock.",
            labels=["role"],
        )
        for role, (moment, is_held) in leaders.items():
            held.add_metric([role], float(is_held))
            at.add_metric([role], moment)
        yield held
        yield at

    def _of_predictions(self) -> Metric:
        family = HistogramMetricFamily(
            "ihvp_prediction_log_error",
            "ln(actual / predicted seconds) of solves, each of one job or of several together, by inversion method.",
            labels=["method"],
        )
        for method, counts in self._prediction_errors.items():
            family.add_metric([method.value], _buckets(ERROR_BOUNDS, counts), sum_value=None)
        return family


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=value)


def _counter(name: str, family: Family, counts: Mapping[str, float]) -> Metric:
    shown = CounterMetricFamily(f"ihvp_{name}", family.text, labels=list(family.labels))
    if not family.labels and name not in counts:
        shown.add_metric([], 0)
    for labels, value in _of_family(name, len(family.labels), counts):
        shown.add_metric(labels, value)
    return shown


def _histogram(name: str, family: Family, counts: Mapping[str, float]) -> Metric:
    shown = HistogramMetricFamily(f"ihvp_{name}", family.text, labels=list(family.labels))
    width = len(family.labels)
    series: dict[tuple[str, ...], tuple[list[float], list[float]]] = {}
    for (*labels, part), value in _of_family(name, width + 1, counts):
        numbers, total = series.setdefault(tuple(labels), ([0] * len(family.bounds), [0.0]))
        if part == "sum":
            total[0] = value
        elif int(part) < len(numbers):
            numbers[int(part)] = value
    for labels_of, (numbers, total) in series.items():
        # Where values may be negative Prometheus forbids a sum.
        shown.add_metric(labels_of, _buckets(family.bounds, numbers), None if family.signed else total[0])
    return shown


def _of_family(name: str, parts: int, counts: Mapping[str, float]) -> Iterable[tuple[list[str], float]]:
    """The fields of a family, each as what follows its name."""
    for field, value in sorted(counts.items()):
        family, *rest = field.split("|")
        if family == name and len(rest) == parts:
            yield rest, value


def _buckets(bounds: Sequence[float], counts: Sequence[float]) -> list[tuple[str, float]]:
    below = [sum(counts[: number + 1]) for number in range(len(bounds))]
    return [("+Inf" if math.isinf(bound) else str(bound), count) for bound, count in zip(bounds, below, strict=True)]

"""What the job store counts for all processes: workers have no port of their own that a monitor could ask.

A count is a field of one hash. Scripts that change a job raise it in the same step, so that it holds exactly as often
as the change did, however often a broken link has a call repeated.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from ihvp.costs.observation import ERROR_BOUNDS
from ihvp.jobs.record import ResultSummary

__all__ = ["FAMILIES", "METHOD", "Counts", "Family", "Measurements", "SignOfLife", "WorkerSeen", "result_counts"]

METHOD: Final = "{method}"
"""Stands for the job's method in a field that the caller of the store does not know."""

SECONDS: Final = (0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 60.0, 300.0, 1800.0, 7200.0, math.inf)
RESIDUALS: Final = (1e-12, 1e-10, 1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, math.inf)


@dataclass(frozen=True)
class Family:
    """Counts of one kind.

    Attributes:
        labels: Names of its labels; each has few values.
        text: What is counted, for those who read the metrics.
        bounds: Upper bounds of its buckets; empty for a plain count.
        signed: Whether values may be negative, so that they have no sum.
    """

    labels: tuple[str, ...]
    text: str
    bounds: tuple[float, ...] = ()
    signed: bool = False


# ihvp/jobs/lua/prelude.lua has the bounds of those that scripts observe written in it; a test compares them.
FAMILIES: Final[Mapping[str, Family]] = {
    "jobs_submitted": Family(("method",), "Jobs accepted, by inversion method."),
    "jobs_finished": Family(("method", "state"), "Jobs that ended, by inversion method and final state."),
    "attempts": Family(("method",), "Attempts begun: each is a worker's claim of a job."),
    "lease_losses": Family(
        ("cause", "outcome"),
        "Jobs taken from a lost worker, by cause (lease_lapsed, worker_died, child_killed) and what became of them.",
    ),
    "jobs_released": Family((), "Jobs that a worker gave back to the queue because it shut down."),
    "reconciler_rounds": Family((), "Rounds begun by the leading reconciler."),
    "right_hand_sides": Family(
        ("method", "status"),
        "Right-hand sides of stored results, by inversion method and the status of the certificate.",
    ),
    "hvps": Family(("method",), "Hessian-vector products, in passes over all training points, by inversion method."),
    "model_cache_requests": Family(
        ("result",), "Blocks of jobs begun on a model that the worker had loaded (hit) or had to load (miss)."
    ),
    "factor_store_requests": Family(
        ("result",), "Factors that a worker took from the shared store (hit) or did not find there (miss)."
    ),
    "queue_wait_seconds": Family(
        ("priority",), "Seconds from a job's acceptance to its first claim, by priority.", SECONDS
    ),
    "solve_seconds": Family(
        ("method",),
        "Seconds a worker spent on a job with a result, from its block's start, by inversion method.",
        SECONDS,
    ),
    "model_load_seconds": Family((), "Seconds in which a worker loaded a model.", SECONDS),
    "relative_residual": Family(
        ("method",),
        "Certified relative residuals ‖(H+λI)x−b‖/‖b‖, one a right-hand side; those not finite are left out.",
        RESIDUALS,
    ),
    "eta_log_error": Family(
        ("of",),
        "ln((1 + actual) / (1 + expected seconds)) from a job's acceptance to its first claim (start) and to its "
        "success (end), as they were expected when it was accepted.",
        ERROR_BOUNDS,
        signed=True,
    ),
}


class Counts:
    """Counts as the store keeps them: ``family|label|…`` to a number; a bucket's index or ``sum`` at the end."""

    def __init__(self) -> None:
        self.fields: dict[str, float] = {}

    def add(self, family: str, *labels: str, by: float = 1) -> None:
        """Raises a plain count."""
        self._raise("|".join((family, *labels)), by)

    def observe(self, family: str, *labels: str, value: float) -> None:
        """Counts a value in its bucket, and adds it to the sum of all."""
        kind = FAMILIES[family]
        bucket = next(at for at, bound in enumerate(kind.bounds) if value <= bound)
        self._raise("|".join((family, *labels, str(bucket))), 1)
        if not kind.signed:
            self._raise("|".join((family, *labels, "sum")), value)

    def merge(self, fields: Mapping[str, float], method: str = "") -> None:
        """Adds others to these; ``METHOD`` in a field stands for the method."""
        for name, by in fields.items():
            self._raise(name.replace(METHOD, method), by)

    def _raise(self, name: str, by: float) -> None:
        self.fields[name] = self.fields.get(name, 0) + by


def result_counts(result: ResultSummary | None) -> Mapping[str, float]:
    """What a result adds to the counts, once it is visible."""
    counts = Counts()
    if result is None:
        return counts.fields
    for certificate in result.certificate:
        counts.add("right_hand_sides", METHOD, certificate.status.value)
        if certificate.relative_residual is not None and math.isfinite(certificate.relative_residual):
            counts.observe("relative_residual", METHOD, value=certificate.relative_residual)
    if result.solve_s is not None:
        counts.observe("solve_seconds", METHOD, value=result.solve_s)
    return counts.fields


@dataclass(frozen=True)
class SignOfLife:
    """What a worker tells when it says that it lives.

    Attributes:
        mark: Of what it has counted: told twice under one mark, it counts once.
        counts: Since the last mark.
        gauges: How it stands now: ``gpu_memory_used_bytes``, ``resident_bytes`` …
    """

    mark: str
    counts: Mapping[str, float] = field(default_factory=dict)
    gauges: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class WorkerSeen:
    """A worker that reported itself: how long ago, and what its last sign of life said of it."""

    worker_id: str
    age_s: float
    gauges: Mapping[str, float]


@dataclass(frozen=True)
class Measurements:
    """The store at one moment, for a monitor.

    Attributes:
        queue_length: Jobs that wait.
        oldest_queued_s: Age of the oldest of them, from its acceptance; 0 where none waits.
        jobs: All jobs kept, by state.
        workers: Those that reported themselves, most recent first.
        leaders: When each role was last taken or kept, in seconds since 1970, and whether it is held now.
        counts: As ``Counts`` has them.
    """

    queue_length: int
    oldest_queued_s: float
    jobs: Mapping[str, int]
    workers: Sequence[WorkerSeen]
    leaders: Mapping[str, tuple[float, bool]]
    counts: Mapping[str, float]

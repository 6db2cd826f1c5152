"""What the live residual history costs a solve: no callback, one that keeps the history, the service's own.

The service's is the real one: a block of one job whose progress goes to a real Valkey that syncs every write.
"""

from __future__ import annotations

import itertools
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor
from ulid import ULID

import solvers
from benchmarks.jobs import cg_job
from benchmarks.problem_files import Problem, read_problem
from benchmarks.rows import TOLERANCES
from ihvp.jobs.record import JobRecord, Progress
from ihvp.jobs.redis_store import RedisJobStore
from ihvp.jobs.store import LeaseState
from ihvp.jobs.submission import JobRequest
from ihvp.models.spec import ModelSpec
from ihvp.settings import Settings
from ihvp.up.embedded_store import EmbeddedStore
from workers.block import Block
from workers.ending import EndingWriter
from workers.lease import Lease
from workers.member import Member
from workers.progress import ProgressReporter, ProgressWriter
from workers.stop import StopSignal

__all__ = ["NONE", "history_overhead"]

COUNT: Final = 16
SECONDS: Final = 40.0
"""Time for all rounds together."""
QUICK_SECONDS: Final = 10.0
LEAST_ROUNDS: Final = 5
MOST_ROUNDS: Final = 200
WRITTEN_S: Final = 10.0
NOWHERE: Final = "sha256:" + "0" * 64
NONE: Final = "none"


class _CountingStore(RedisJobStore):
    """A store that counts the round trips for progress."""

    writes = 0

    def report_all(self, points: Sequence[tuple[str, int, Progress]]) -> Sequence[LeaseState]:
        """See ``JobStore.report_all``."""
        self.writes += 1
        return super().report_all(points)


@dataclass(frozen=True)
class _Held:
    """A claimed job, and where its progress and its end go."""

    job: JobRecord
    stop: StopSignal
    store: _CountingStore
    endings: EndingWriter
    writer: ProgressWriter
    interval_s: float

    def member(self) -> Member:
        """The job as if it had been claimed just now."""
        target = TOLERANCES["float32"]
        progress = ProgressReporter(self.writer, self.job, self.stop, interval_s=self.interval_s, target=target)
        return Member(self.job, self.stop, progress, self.endings)


class _Timed:
    """A callback, with the time that is spent in it."""

    def __init__(self) -> None:
        self.inner: Callable[[solvers.IterationReport], Any] = lambda _: None
        self.seconds = 0.0
        self.calls = 0

    def __call__(self, report: solvers.IterationReport) -> Any:
        started = time.perf_counter()
        verdict = self.inner(report)
        self.seconds += time.perf_counter() - started
        self.calls += 1
        return verdict


def history_overhead(folder: Path, *, quick: bool) -> dict[str, Any]:
    """Interleaved solves of 16 right-hand sides by ``cg`` in float32, as many rounds as fit into a fixed time.

    Returns:
        ``rounds``, ``seconds`` and ``iterations`` of a solve without a callback, and by callback ``ratio`` (the median
        over rounds of its time to that of the solve without one next to it, minus 1), ``spread`` (the same of a
        second solve without a callback: what the measurement itself cannot tell apart), ``inside`` (the part of the
        solves' time spent in the callback, measured around it) and ``milliseconds`` a call; and ``writes``, the
        service's round trips to its store for a solve's progress, beside the one that ends the job.
    """
    problem = read_problem(folder, torch.float32, COUNT)
    model = solvers.TorchTwiceDifferentiable(problem.module, problem.loss)
    # One strategy, and nothing kept from solve to solve: all of them do the same.
    prepared = solvers.Problem(model, [(problem.x, problem.y)], strategy="graph")
    iterations = 0

    def solve(callback: Callable[[solvers.IterationReport], Any] | None) -> float:
        nonlocal iterations
        started = time.perf_counter()
        result = prepared.solve(
            "cg",
            problem.cold,
            hessian_perturbation=problem.damping,
            rtol=TOLERANCES["float32"],
            atol=0.0,
            recycle=False,
            callback=callback,
        )
        taken = time.perf_counter() - started
        iterations = max(certificate["iterations"] for certificate in result.info["certificate"])
        return taken

    history: list[list[float | None]] = []
    with _claimed_job(problem) as held:
        timed = {"history": _Timed(), "service": _Timed()}
        timed["history"].inner = lambda report: history.append(report.relative_residual)

        def as_worker() -> float:
            # What the job's end would take along has to be ready, and the thread that writes done: else it would still
            # be at work in the next solve.
            started = time.perf_counter()
            member = held.member()
            timed["service"].inner = Block([member], held.writer)
            with member.phase("solving"):
                taken = solve(timed["service"])
            member.progress.close()
            held.writer.wait(WRITTEN_S)
            total = time.perf_counter() - started
            timed["service"].seconds += total - taken
            return total

        arms: dict[str, Callable[[], float]] = {
            NONE: lambda: solve(None),
            "none again": lambda: solve(None),
            "history": lambda: solve(timed["history"]),
            "service": as_worker,
        }
        for run in arms.values():
            run()
        for callback in timed.values():
            callback.seconds, callback.calls = 0.0, 0
        held.store.writes = 0
        seconds: dict[str, list[float]] = {name: [] for name in arms}
        order = random.Random(0)
        began = time.monotonic()
        for done in itertools.count():
            late = time.monotonic() - began > (QUICK_SECONDS if quick else SECONDS)
            if done >= MOST_ROUNDS or (late and done >= LEAST_ROUNDS):
                break
            for name in order.sample(list(arms), len(arms)):
                seconds[name].append(arms[name]())
            history.clear()
    return {
        "rounds": len(seconds[NONE]),
        "seconds": statistics.median(seconds[NONE]),
        "iterations": iterations,
        "spread": _median_ratio(seconds["none again"], seconds[NONE]),
        "writes": held.store.writes / len(seconds[NONE]),
        "callbacks": {
            name: {
                "ratio": _median_ratio(seconds[name], seconds[NONE]),
                "inside": callback.seconds / sum(seconds[name]),
                "milliseconds": 1e3 * callback.seconds / callback.calls,
            }
            for name, callback in timed.items()
        },
    }


def _median_ratio(taken: list[float], beside: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(taken, beside, strict=True)) - 1.0


@contextmanager
def _claimed_job(problem: Problem) -> Iterator[_Held]:
    """A job with this problem's right-hand sides as the worker that has claimed it holds it, heartbeat and all."""
    with tempfile.TemporaryDirectory(prefix="ihvp-bench-") as folder:
        server = EmbeddedStore(Path(folder))
        server.start()
        store: RedisJobStore | None = None
        try:
            settings = Settings(redis_url=server.url, namespace="bench", data_dir=Path(folder))
            store = _CountingStore.from_settings(settings)
            assert isinstance(store, _CountingStore)
            store.create(f"job_{ULID()}", _request(problem.cold))
            claimed_at = time.monotonic()
            job = store.claim("bench", settings.lease_s)
            assert job is not None
            stop = StopSignal(lambda: False)
            lease = Lease(store, [(job, stop)], claimed_at, lease_s=settings.lease_s, renew_s=settings.lease_renew_s)
            with lease, ProgressWriter(store) as writer:
                yield _Held(job, stop, store, EndingWriter(store, lease), writer, settings.progress_interval_s)
        finally:
            if store is not None:
                store.close()
            server.stop()


def _request(b: Tensor) -> JobRequest:
    spec = ModelSpec.model_validate(
        {
            "architecture": {"type": "linear", "config": {"in_features": 1, "out_features": 1}},
            "weights": NOWHERE,
            "loss": "cross_entropy",
            "data": {"inputs": NOWHERE, "targets": NOWHERE},
            "dtype": "float32",
        }
    )
    return cg_job(spec, NOWHERE, b.shape)

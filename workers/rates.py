"""What solves cost, told to the store that the API predicts from."""

from __future__ import annotations

import math
import queue
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import structlog

from ihvp.costs.observation import Known, Observation
from ihvp.costs.prediction import predict
from ihvp.costs.store import KEPT_HERE, KEPT_RECENT, CostStore
from ihvp.costs.workload import Task, Workload
from ihvp.errors import IhvpError
from ihvp.jobs.submission import JobRequest
from ihvp.methods import Curvature, InversionMethod, TerminationStatus
from ihvp.perturbation import least
from workers.resolvers.model import LoadedModel

__all__ = ["RateRecorder", "SolveCost", "cost_of", "workload_of"]

_log = structlog.get_logger(__name__)

_PAUSE_S: Final = 1.0
_FRESH_S: Final = 60.0
_UNWRITTEN: Final = 256
_STOPPED: Final = frozenset({TerminationStatus.Cancelled.value, TerminationStatus.Deadline.value})
_GIVEN_UP: Final = _STOPPED | {
    TerminationStatus.MaxIterations.value,
    TerminationStatus.NegativeCurvature.value,
    TerminationStatus.Breakdown.value,
    TerminationStatus.NonFinite.value,
}
_TIMED: Final = frozenset({InversionMethod.Cg, InversionMethod.Minres})


@dataclass(frozen=True)
class SolveCost:
    """A solve as it was asked for, and what it took.

    Attributes:
        workload: What was solved.
        task: By which method.
        seen: What it took.
        stopped: Whether it was asked to stop, so that its time says nothing.
    """

    workload: Workload
    task: Task
    seen: Observation
    stopped: bool


def workload_of(request: JobRequest, model: LoadedModel, columns: int) -> Workload:
    """What is solved, as far as its cost goes.

    Args:
        request: Of any job in the block.
        model: The model that it is solved on.
        columns: Right-hand sides in the block.
    """
    spec = request.model.spec
    return Workload(
        model=request.model.digest,
        curvature=request.curvature,
        architecture=spec.kind,
        dtype=spec.dtype,
        num_points=model.problem.num_points,
        batch_size=spec.data.batch_size,
        shapes=tuple(shape for _, shape in model.layout),
        num_params=model.num_params,
        columns=columns,
        damping=least(request.hessian_perturbation),
    )


def cost_of(
    request: JobRequest, model: LoadedModel, columns: int, info: Mapping[str, Any], phases: Mapping[str, float]
) -> SolveCost:
    """What a solve took.

    Args:
        request: Of any job in the block that was solved.
        model: The model that it was solved on.
        columns: Right-hand sides in the block.
        info: Of the solver's result.
        phases: Seconds of the phases before it: ``load``, ``rhs``.
    """
    spec = request.model.spec
    task = Task.of(request.method, request.options, spec.dtype)
    workload = workload_of(request, model, columns)
    # A solver that someone registered may say less than ours do.
    timings, products = info.get("timings", {}), float(info.get("hvps", 0.0))
    statuses = {str(entry["status"]) for entry in info["certificate"]}
    # What these do beside products grows with their number, so it is counted in; the certifying ones are among them.
    timed = timings.get("solve", 0.0) + timings.get("certify", 0.0)
    per_product = model.problem_for(request.curvature).seconds_per_product
    if task.method in _TIMED and products:
        per_product = timed / products
    seen = Observation(
        model=workload.model,
        curvature=workload.curvature,
        method=task.method,
        preconditioner=task.preconditioner,
        rank=task.rank,
        architecture=workload.architecture,
        dtype=workload.dtype,
        num_params=workload.num_params,
        num_points=workload.num_points,
        columns=columns,
        damping=least(info.get("hessian_perturbation", request.hessian_perturbation)),
        rtol=task.rtol,
        seconds=phases.get("rhs", 0.0) + sum(timings.values()),
        load_s=phases.get("load", 0.0),
        seconds_per_product=per_product,
        products=products,
        iterations=max(int(entry["iterations"]) for entry in info["certificate"]),
        reached=not statuses & _GIVEN_UP,
        kept_bytes=model.nbytes,
    )
    return SolveCost(workload, task, seen, stopped=bool(statuses & _STOPPED))


class RateRecorder:
    """Writes costs from a thread of its own, so that no job waits for it.

    Of solves of one kind that follow each other within a second the first is kept: every write is synced to disk by
    the store, and the others would say the same. What cannot be written is dropped.

    Args:
        store: Where costs are kept.
        clock: Monotonic seconds.
    """

    def __init__(self, store: CostStore, clock: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._clock = clock
        self._unwritten: queue.Queue[SolveCost] = queue.Queue(_UNWRITTEN)
        self._thread: threading.Thread | None = None
        self._noted: dict[tuple[Any, ...], float] = {}
        self._key: tuple[str, Curvature] | None = None
        self._known = Known()
        self._read_at = -math.inf

    def note(self, cost: SolveCost) -> None:
        """Takes a cost; returns at once and never fails."""
        seen, now = cost.seen, self._clock()
        kind = (seen.model, seen.curvature, seen.method, seen.preconditioner, seen.rank)
        if now - self._noted.get(kind, -math.inf) < _PAUSE_S:
            return
        self._noted = {other: at for other, at in self._noted.items() if now - at < _PAUSE_S} | {kind: now}
        if self._thread is None:
            # Not before a pool has forked: a thread would stay behind in the parent.
            self._thread = threading.Thread(target=self._write_all, name="rates", daemon=True)
            self._thread.start()
        try:
            self._unwritten.put_nowait(cost)
        except queue.Full:
            _log.debug("rate_dropped", reason="the store is slower than the solves")

    def flush(self) -> None:
        """Waits until all that was taken is written or dropped."""
        self._unwritten.join()

    def _write_all(self) -> None:
        while True:
            cost = self._unwritten.get()
            try:
                self._write(cost)
            except IhvpError as error:
                self._read_at = -math.inf
                _log.warning("rate_not_written", error=str(error))
            except Exception:  # a thread that dies in silence would end all predictions
                _log.exception("rate_failed")
            finally:
                self._unwritten.task_done()

    def _write(self, cost: SolveCost) -> None:
        known = self._what_was_known(cost.seen)
        expected = predict(cost.workload, cost.task, known).seconds
        comparable = not cost.stopped and expected > 0 and cost.seen.seconds > 0
        self._store.record(cost.seen, math.log(cost.seen.seconds / expected) if comparable else None)
        self._known = Known((cost.seen, *known.here)[:KEPT_HERE], (cost.seen, *known.recent)[:KEPT_RECENT])

    def _what_was_known(self, seen: Observation) -> Known:
        """What a prediction would have rested on; read again when it is another model's, or some time old."""
        key, now = (seen.model, seen.curvature), self._clock()
        if key != self._key or now - self._read_at > _FRESH_S:
            self._known = self._store.known(*key)
            self._key, self._read_at = key, now
        return self._known

"""The work of one attempt: load, make b, solve, score, store."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from ihvp.blobs.store import BlobStore
from ihvp.factors.index import FactorIndex
from ihvp.jobs.record import Certificate, JobRecord, ResultSummary
from ihvp.methods import InversionMethod, default_rtol, parse_options
from ihvp.results import SCORES_TENSOR, X_TENSOR, ResultDocument, ResultInfo
from ihvp.settings import Settings
from solvers import InverseHvpResult, influence_scores
from workers.factor_store import BlobFactors
from workers.problem_cache import ProblemCache
from workers.progress import ProgressReporter
from workers.provenance import provenance_of
from workers.resolvers.model import LoadedModel, load_model
from workers.resolvers.rhs import resolve_rhs
from workers.result_blob import json_ready, write_tensor
from workers.stop import StopReason, StopSignal

__all__ = ["SolveRun"]

_SCORED_AT_ONCE = 8
"""Solutions scored between two looks at whether to stop."""


class SolveRun:
    """One attempt at one job.

    Args:
        settings: The service's settings.
        blobs: Weights, data and results.
        job: The claimed job.
        models: Models kept warm by the worker.
        factors: Factors that workers keep for each other, if they do.
        progress: Where phases and iterations are reported; says when to stop.
        stop: Why to stop.

    Attributes:
        complete: Whether everything that was asked for has been computed and stored.
    """

    def __init__(
        self,
        settings: Settings,
        blobs: BlobStore,
        job: JobRecord,
        models: ProblemCache[LoadedModel],
        factors: FactorIndex | None,
        progress: ProgressReporter,
        stop: StopSignal,
    ) -> None:
        self.complete = False
        self._settings = settings
        self._blobs = blobs
        self._job = job
        self._models = models
        self._factors = factors
        self._progress = progress
        self._stop = stop
        self._timings: dict[str, float] = {}
        self._began = time.perf_counter()
        self._warm = False

    def execute(self) -> ResultSummary | None:
        """Does the work, phase by phase, as long as nothing asks it to stop.

        Returns:
            The stored result: a complete one, or what was reached by the deadline; None if it was stopped
            before there was anything to keep.

        Raises:
            IhvpError: The job cannot be solved as it was submitted.
        """
        warm = self._job.request.model.digest in self._models
        with self._phase("loading", at_once=not warm):
            model = self._model()
        if self._stop.reason:
            return None
        with self._phase("rhs"):
            b = resolve_rhs(self._blobs, self._job.request.rhs, model)
        if self._stop.reason:
            return None
        with self._phase("solving"):
            result = self._solve(model, b)
        stopped = self._stop.reason
        if stopped not in (None, StopReason.Deadline):
            return None
        scores: Tensor | None = None
        if self._job.request.influence is not None and stopped is None:
            with self._phase("influence", at_once=True):
                scores = self._scores(model, result.x)
            stopped = self._stop.reason if scores is None else None
            if stopped not in (None, StopReason.Deadline):
                return None
        with self._phase("storing"):
            summary = self._store(model, result, scores)
        self.complete = stopped is None
        return summary

    def _model(self) -> LoadedModel:
        pinned = self._job.request.model

        def load() -> LoadedModel:
            kept = None if self._factors is None else BlobFactors(self._blobs, self._factors, pinned.digest)
            return load_model(self._blobs, pinned.spec, memory_budget=self._settings.memory_budget, factor_store=kept)

        model, self._warm = self._models.get(pinned.digest, load)
        return model

    def _solve(self, model: LoadedModel, b: Tensor) -> InverseHvpResult[Tensor]:
        request = self._job.request
        problem = model.problem_for(request.curvature)
        result = problem.solve(
            request.method,
            b,
            hessian_perturbation=request.hessian_perturbation,
            callback=self._progress,
            **self._options(),
        )
        self._models.settle(request.model.digest, result.info.get("timings", {}).get("linearise", 0.0))
        return result

    def _options(self) -> dict[str, Any]:
        """The options with the service's defaults, which for cg are not the library's."""
        request = self._job.request
        options = parse_options(request.method, request.options).model_dump(exclude_none=True)
        if request.method is InversionMethod.Cg:
            options.setdefault("rtol", default_rtol(request.model.spec.dtype))
        if request.method is InversionMethod.Direct:
            options["memory_budget"] = self._settings.memory_budget
        return options

    def _scores(self, model: LoadedModel, x: Tensor) -> Tensor | None:
        """Scores ``[k, n]``, NaN for solutions that are not finite; None if it was stopped on the way."""
        rows = x.reshape(-1, x.shape[-1])
        scores = x.new_full((rows.shape[0], model.problem.num_points), float("nan"))
        for start in range(0, rows.shape[0], _SCORED_AT_ONCE):
            if self._stop.reason:
                return None
            piece = slice(start, start + _SCORED_AT_ONCE)
            finite = rows[piece].isfinite().all(dim=1)
            if bool(finite.any()):
                # A right-hand side that broke down must not take the others' scores with it.
                found = influence_scores(model.problem.model, model.problem, rows[piece][finite])
                scores[piece][finite] = found
        return scores

    def _store(self, model: LoadedModel, result: InverseHvpResult[Tensor], scores: Tensor | None) -> ResultSummary:
        influence_digest: str | None = None
        if scores is not None:
            metadata = {"job_id": self._job.id}
            influence_digest = write_tensor(self._blobs, SCORES_TENSOR, scores, metadata).digest
        certificates = [Certificate.model_validate(c) for c in json_ready(result.info)["certificate"]]
        document = ResultDocument(
            info=self._info(result.info),
            provenance=provenance_of(self._job, device=str(model.problem.device), warm=self._warm),
        )
        blob = write_tensor(self._blobs, X_TENSOR, result.x, document.to_metadata())
        return ResultSummary(
            digest=blob.digest,
            size=blob.size,
            shape=list(result.x.shape),
            dtype=self._job.request.model.spec.dtype,
            certificate=certificates,
            influence_digest=influence_digest,
            solve_s=time.perf_counter() - self._began,
        )

    def _info(self, info: dict[str, Any]) -> ResultInfo:
        """The solver's info with the worker's phases among its timings."""
        ready = json_ready(info)
        ready["timings"] = {**self._timings, **ready.get("timings", {})}
        return ResultInfo.model_validate(ready)

    @contextmanager
    def _phase(self, name: str, *, at_once: bool = False) -> Iterator[None]:
        """Reports a phase, times it, and reports its last iteration."""
        self._progress.enter(name, at_once=at_once)
        began = time.perf_counter()
        try:
            yield
        finally:
            if name in _TIMINGS:
                self._timings[_TIMINGS[name]] = time.perf_counter() - began
            self._progress.flush()


# The solver itself says how long solving took, in its parts: linearise, solve, certify.
_TIMINGS = {"loading": "load", "rhs": "rhs", "influence": "influence"}

"""From a solution to a stored result: scores, document, blobs."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, Final

from torch import Tensor

from ihvp.blobs.store import BlobStore
from ihvp.jobs.record import Certificate, ResultSummary
from ihvp.results import SCORES_TENSOR, X_TENSOR, ResultDocument, ResultInfo
from solvers import InverseHvpResult, influence_scores
from workers.ending import Ending
from workers.member import Member
from workers.provenance import provenance_of
from workers.resolvers.model import LoadedModel
from workers.result_blob import json_ready, write_tensor
from workers.stop import StopReason

__all__ = ["Finisher"]

_SCORED_AT_ONCE: Final = 8
"""Solutions scored between two looks at whether to stop."""


@dataclass(frozen=True)
class Finisher:
    """Turns the solutions of a block into the results of its jobs.

    Attributes:
        blobs: Where results go.
        model: The model that was solved on.
        warm: Whether it was loaded already.
        began: ``time.perf_counter()`` when the work began.
    """

    blobs: BlobStore
    model: LoadedModel
    warm: bool
    began: float

    def finish(self, member: Member, result: InverseHvpResult[Tensor], *, complete: bool) -> Ending:
        """Scores and stores one job's result, as far as nothing asks it to stop.

        Args:
            member: The job.
            result: Its part of what was solved.
            complete: Whether the solve came to its own end.

        Returns:
            How it ends: with a complete result, or with what was reached by its deadline.
        """
        scores: Tensor | None = None
        if member.job.request.influence is not None and complete:
            with member.phase("influence", at_once=True):
                scores = self._scores(member, result.x)
            if scores is None:
                complete = False
                reason = member.stop.reason
                if reason is not None and reason is not StopReason.Deadline:
                    return Ending.stopped(reason)
        with member.phase("storing"):
            summary = self._store(member, result, scores)
        # A result that is complete is worth more than the wish to stop before it was.
        if complete and member.stop.reason is not StopReason.Deadline:
            return Ending("succeeded", result=summary)
        return Ending.stopped(StopReason.Deadline, summary)

    def _scores(self, member: Member, x: Tensor) -> Tensor | None:
        """Scores ``[k, n]``, NaN for solutions that are not finite; None if it was stopped on the way."""
        problem = self.model.problem
        rows = x.reshape(-1, x.shape[-1])
        scores = x.new_full((rows.shape[0], problem.num_points), float("nan"))
        for start in range(0, rows.shape[0], _SCORED_AT_ONCE):
            if member.stop.reason:
                return None
            piece = slice(start, start + _SCORED_AT_ONCE)
            finite = rows[piece].isfinite().all(dim=1)
            if bool(finite.any()):
                # A right-hand side that broke down must not take the others' scores with it.
                scores[piece][finite] = influence_scores(problem.model, problem, rows[piece][finite])
        return scores

    def _store(self, member: Member, result: InverseHvpResult[Tensor], scores: Tensor | None) -> ResultSummary:
        job = member.job
        influence_digest: str | None = None
        if scores is not None:
            influence_digest = write_tensor(self.blobs, SCORES_TENSOR, scores, {"job_id": job.id}).digest
        ready: dict[str, Any] = json_ready(result.info)
        ready["timings"] = {**member.timings, **ready.get("timings", {})}
        if member.checkpoints is not None and member.checkpoints.resumed_at is not None:
            ready["resumed_at"] = member.checkpoints.resumed_at
        document = ResultDocument(
            info=ResultInfo.model_validate(ready),
            provenance=provenance_of(job, device=str(self.model.problem.device), warm=self.warm),
        )
        blob = write_tensor(self.blobs, X_TENSOR, result.x, document.to_metadata())
        return ResultSummary(
            digest=blob.digest,
            size=blob.size,
            shape=list(result.x.shape),
            dtype=job.request.model.spec.dtype,
            certificate=[Certificate.model_validate(c) for c in ready["certificate"]],
            influence_digest=influence_digest,
            solve_s=time.perf_counter() - self.began,
        )

"""From solutions to stored results: scores, documents, blobs, and the ends of their jobs."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from torch import Tensor

from ihvp.blobs.store import BlobGroup, BlobInfo, BlobStore
from ihvp.jobs.record import Certificate, ResultSummary
from ihvp.jobs.rules import result_blobs
from ihvp.results import SCORES_TENSOR, X_TENSOR, ResultDocument, ResultInfo
from solvers import InverseHvpResult, influence_scores
from workers.ending import Ending
from workers.member import Member, end_together
from workers.provenance import provenance_of
from workers.resolvers.model import LoadedModel
from workers.result_blob import json_ready, write_tensor
from workers.stop import StopReason

__all__ = ["Finisher", "Solved"]

_SCORED_AT_ONCE: Final = 8
"""Solutions scored between two looks at whether to stop."""
_MOST_JOBS: Final = 64
"""Jobs that end with one write; each keeps two files open until then."""
_MOST_BYTES: Final = 16 * 1024 * 1024
_MOST_S: Final = 0.25
"""A result that is ready does not wait longer than this, nor for more bytes than those, to be written with others."""


@dataclass(frozen=True)
class Solved:
    """What a solve has left for one job.

    Attributes:
        member: The job.
        result: Its part of what was solved.
        complete: Whether the solve came to its own end.
    """

    member: Member
    result: InverseHvpResult[Tensor]
    complete: bool


@dataclass(frozen=True)
class _Ready:
    """A job that ends with the next write, and the result that has to be stored for it."""

    member: Member
    ending: Ending
    summary: ResultSummary | None = None


@dataclass(frozen=True)
class Finisher:
    """Turns the solutions of a block into the results of its jobs, and ends them.

    Results that are ready at about the same time are written together: a sync of their blobs side by side, and
    then one of the job store, instead of several for each. Nothing is visible before it is on the disk.

    Attributes:
        blobs: Where results go.
        model: The model that was solved on.
        warm: Whether it was loaded already.
        began: ``time.perf_counter()`` when the work began.
        fail: Ends a job with what went wrong with its result.
        memory: What the result says of the memory it was solved within, where that was not all of it.
    """

    blobs: BlobStore
    model: LoadedModel
    warm: bool
    began: float
    fail: Callable[[Member, Exception], None]
    memory: Mapping[str, Any] | None = None

    def finish(self, solved: Sequence[Solved]) -> None:
        """Scores, stores and ends jobs, as far as nothing asks them to stop."""
        with self.blobs.group() as group:
            ready: list[_Ready] = []
            since = time.monotonic()
            for each in solved:
                if not ready:
                    since = time.monotonic()
                with each.member.speaking():
                    ready += self._made_ready(group, each)
                written = sum(one.summary.size for one in ready if one.summary is not None)
                if len(ready) >= _MOST_JOBS or written >= _MOST_BYTES or time.monotonic() - since > _MOST_S:
                    self._end(group, ready)
                    ready = []
            self._end(group, ready)

    def _made_ready(self, group: BlobGroup, solved: Solved) -> list[_Ready]:
        """How a job ends, if it has not: with a complete result, with what was reached by its deadline, or without."""
        member, complete = solved.member, solved.complete
        if member.ending is not None:
            return []
        try:
            scores: Tensor | None = None
            if member.job.request.influence is not None and complete and not _is_useless(member):
                with member.phase("influence", at_once=solved.result.info.get("coalesced") is None):
                    scores = self._scores(member, solved.result.x)
                complete = scores is not None
            reason = member.stop.reason
            if reason is not None and (_is_useless(member) or (reason is StopReason.Shutdown and not complete)):
                return [_Ready(member, Ending.stopped(reason))]
            with member.phase("storing"):
                summary = self._store(group, member, solved.result, scores)
        except Exception as error:
            self.fail(member, error)
            return []
        # A result that is complete is worth more than the wish to stop before it was.
        if complete and member.stop.reason is not StopReason.Deadline:
            return [_Ready(member, Ending("succeeded", result=summary), summary)]
        return [_Ready(member, Ending.stopped(StopReason.Deadline, summary), summary)]

    def _end(self, group: BlobGroup, ready: Sequence[_Ready]) -> None:
        faults = group.commit()
        endings: list[tuple[Member, Ending]] = []
        for each in ready:
            lost = [digest for digest in result_blobs(each.summary) if digest in faults]
            if lost:
                self.fail(each.member, faults[lost[0]])
            else:
                endings.append((each.member, each.ending))
        end_together(endings)

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

    def _store(
        self, group: BlobGroup, member: Member, result: InverseHvpResult[Tensor], scores: Tensor | None
    ) -> ResultSummary:
        job = member.job
        influence: BlobInfo | None = None
        if scores is not None:
            influence = write_tensor(group, SCORES_TENSOR, scores, {"job_id": job.id})
        ready: dict[str, Any] = json_ready(result.info)
        ready["timings"] = {**member.timings, **ready.get("timings", {})}
        if member.checkpoints is not None and member.checkpoints.resumed_at is not None:
            ready["resumed_at"] = member.checkpoints.resumed_at
        ready["loss_check"] = json_ready(self.model.loss_check)
        if self.memory is not None:
            ready["memory"] = dict(self.memory)
        document = ResultDocument(
            info=ResultInfo.model_validate(ready),
            provenance=provenance_of(
                job, self.model.sources | member.sources, device=str(self.model.problem.device), warm=self.warm
            ),
        )
        blob = write_tensor(group, X_TENSOR, result.x, document.to_metadata())
        return ResultSummary(
            digest=blob.digest,
            size=blob.size,
            shape=list(result.x.shape),
            dtype=job.request.model.spec.dtype,
            certificate=[Certificate.model_validate(c) for c in ready["certificate"]],
            influence_digest=influence and influence.digest,
            influence_size=influence and influence.size,
            solve_s=time.perf_counter() - self.began,
        )


def _is_useless(member: Member) -> bool:
    """Whether nobody wants a result any more."""
    return member.stop.reason in (StopReason.Cancelled, StopReason.Lost)

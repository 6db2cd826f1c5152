"""The work of one attempt at a block of jobs: load, make b, solve, score, store."""

from __future__ import annotations

import gc
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

import structlog
import torch
from torch import Tensor

from ihvp.blobs.store import BlobStore
from ihvp.errors import IhvpError, ModelTooLarge
from ihvp.factors.index import FactorIndex
from ihvp.jobs.store import JobStore
from ihvp.jobs.submission import JobRequest
from ihvp.methods import TerminationStatus
from ihvp.settings import Settings
from solvers import InverseHvpResult
from workers.block import Block
from workers.device import solving_device
from workers.ending import Ending
from workers.factor_store import BlobFactors
from workers.faults import is_out_of_memory, out_of_memory, unforeseen
from workers.finishing import Finisher, Solved
from workers.loading import Loading
from workers.member import Member, end_together
from workers.memory import MemoryBudget, free_bytes
from workers.problem_cache import ProblemCache
from workers.progress import ProgressWriter
from workers.rates import RateRecorder, cost_of, workload_of
from workers.resolvers.files import Files
from workers.resolvers.model import LoadedModel, load_model
from workers.resolvers.rhs import resolve_rhs
from workers.resolvers.source_cache import SourceCache
from workers.resolvers.unpacking import Scratch
from workers.solver_call import SolverCall
from workers.tally import Tally

__all__ = ["Resources", "SolveRun"]

_log = structlog.get_logger(__name__)

ValueT = TypeVar("ValueT")

_STOPPED = {TerminationStatus.Cancelled.value, TerminationStatus.Deadline.value}
_DEATHS_BY_CHANCE = 2
# Endings that a right-hand side may owe to another one of its block.
_CONTAGIOUS = {
    TerminationStatus.NegativeCurvature.value,
    TerminationStatus.Breakdown.value,
    TerminationStatus.Stagnated.value,
    TerminationStatus.NonFinite.value,
}


@dataclass(frozen=True)
class Resources:
    """What a worker keeps from job to job.

    Attributes:
        settings: The service's settings.
        store: The job store.
        blobs: Weights, data and results.
        models: Models kept warm.
        factors: Factors that workers keep for each other, if they do.
        rates: Where the cost of each solve is told, if anywhere.
        tally: Where what the worker does is counted.
        loading: Runs loads within their limits.
    """

    settings: Settings
    store: JobStore
    blobs: BlobStore
    models: ProblemCache[LoadedModel]
    factors: FactorIndex | None
    loading: Loading
    rates: RateRecorder | None = None
    tally: Tally = field(default_factory=Tally)


class SolveRun:
    """One attempt at the jobs of a block, which have everything in common but b and what is done with x.

    Every job is ended on the way, each in its own way: see ``docs/adr/0009-coalescing.md``.

    Args:
        resources: What the worker keeps.
        members: The claimed jobs.
        progress: Takes what they report to the store.
    """

    def __init__(self, resources: Resources, members: Sequence[Member], progress: ProgressWriter) -> None:
        self._settings = resources.settings
        self._store = resources.store
        self._blobs = resources.blobs
        self._sources = SourceCache(resources.settings)
        self._models = resources.models
        self._factors = resources.factors
        self._rates = resources.rates
        self._tally = resources.tally
        self._loading = resources.loading
        self._members = members
        self._progress = progress
        self._request = members[0].job.request
        self._began = time.perf_counter()
        self._warm = self._request.model.digest in self._models
        self._loaded: LoadedModel | None = None
        # A job that a worker died on is alone.
        self._budget = MemoryBudget(self._settings.memory_budget, members[0].job.losses)

    def execute(self) -> None:
        """Does the work, phase by phase, as long as somebody wants it."""
        try:
            self._execute()
        except Exception as error:  # the boundary: a job's fault must not end the worker
            for member in self._members:
                self._fail(member, error)

    def _execute(self) -> None:
        with self._phase(self._members, "loading", at_once=not self._warm):
            self._or_with_less("loading", self._model)
        for member in self._waiting(self._members):
            self._read(member)
        self._solve(self._waiting(self._members))

    def _waiting(self, members: Sequence[Member]) -> list[Member]:
        """Those that have not ended; who was asked to stop does so now."""
        end_together([(member, Ending.stopped(reason)) for member in members if (reason := member.stop.reason)])
        return [member for member in members if member.ending is None]

    def _model(self) -> LoadedModel:
        pinned = self._request.model

        def load() -> LoadedModel:
            kept = (
                None if self._factors is None else BlobFactors(self._blobs, self._factors, pinned.digest, self._tally)
            )
            began = time.perf_counter()
            files = Files(self._blobs, self._sources, pinned.spec.sources)
            files.fetch()

            def with_room(room: int | None) -> LoadedModel:
                return load_model(
                    files,
                    pinned.spec,
                    memory_budget=self._budget.bytes,
                    factor_store=kept,
                    device=self._settings.device,
                    allow_exports=self._settings.allow_exports,
                    scratch=Scratch(
                        self._settings.scratch_dir, self._settings.max_unpacked_bytes, self._settings.keep_free_bytes
                    ),
                    room=room,
                )

            model = self._within_limits(with_room)
            self._tally.observe("model_load_seconds", value=time.perf_counter() - began)
            return model

        if self._loaded is None and self._budget.reduced:
            # Not among those that are kept warm: other jobs may plan for more. Nor beside them.
            self._clear()
            self._warm = False
            self._loaded = load()
        elif self._loaded is None:
            self._loaded, warm = self._models.get(pinned.digest, load)
            self._tally.add("model_cache_requests", "hit" if warm else "miss")
        return self._loaded

    def _within_limits(self, load: Callable[[int | None], LoadedModel]) -> LoadedModel:
        """Loads; with the memory of what is kept warm too, where only that is wanting by the weights' headers."""
        jobs = [(member.job.id, member.job.attempt) for member in self._members if member.ending is None]
        try:
            return self._loading.run(jobs, load)
        except ModelTooLarge:
            if self._settings.load_memory is not None or not len(self._models):
                raise
        self._clear()
        return self._loading.run(jobs, load)

    def _clear(self) -> None:
        """Lets go of all models: whatever is kept warm may be what filled the memory."""
        self._models.clear()
        self._loaded = None
        # Graphs and the modules they belong to refer to each other.
        gc.collect()

    def _or_with_less(self, phase: str, work: Callable[[], ValueT]) -> ValueT:
        """What the work makes; where memory runs out, what it makes with less to plan for, once in an attempt."""
        try:
            return work()
        except Exception as error:
            if not is_out_of_memory(error) or not self._budget.reduce(phase):
                raise
            self._tell_shortage(phase, error)
        # Outside the handler: the error's frames hold what filled the memory.
        self._clear()
        return work()

    def _tell_shortage(self, phase: str, error: BaseException) -> None:
        _log.warning("out_of_memory_trying_smaller", phase=phase, budget=self._budget.bytes, error=str(error)[:300])

    def _read(self, member: Member) -> None:
        """Reads one job's right-hand sides; what is wrong with them is its own fault alone."""
        with member.speaking():
            try:
                rhs = member.job.request.rhs
                with member.phase("rhs"), Files(self._blobs, self._sources, rhs.sources) as files:
                    member.b = self._or_with_less("rhs", lambda: resolve_rhs(files, rhs, self._model()))
                    member.sources = files.fetched()
            except Exception as error:
                self._fail(member, error)

    def _solve(self, members: list[Member]) -> None:
        """Solves them as a block; one by one where that fails, or where the block may have done one of them harm."""
        if not members:
            return
        failed, short = "", False
        alone: list[Member] = []
        try:
            alone = self._solve_block(members)
        except Exception as error:
            short = is_out_of_memory(error)
            if len(members) == 1:
                if not short or not self._budget.reduce("solving"):
                    self._fail(members[0], error)
                    return
                self._tell_shortage("solving", error)
            failed = f"{type(error).__name__}: {error}"[:300]
        # Not within the handler: the error's frames hold what filled the memory.
        if failed:
            if short:
                self._clear()
            if len(members) > 1:
                _log.warning("block_failed", jobs=len(members), error=failed)
            alone = members
        for member in alone:
            self._solve(self._waiting([member]))

    def _solve_block(self, members: list[Member]) -> list[Member]:
        """Solves a block, again and again where one of its members has to stop before the others.

        Returns:
            Members that should be solved alone.
        """
        model = self._model()
        alone: list[Member] = []
        first: Tensor | None = None
        while members:
            block = Block(members, self._progress, self._tally)
            with self._phase(members, "solving"):
                result = self._call(model, block, first)
            left: list[Member] = []
            iterates: list[Tensor] = []
            solved: list[Solved] = []
            for member, part in zip(members, block.parts(result), strict=True):
                statuses = {certificate["status"] for certificate in part.info["certificate"]}
                complete = not (block.stopped and statuses & _STOPPED)
                if not complete and member.stop.reason is None and member.ending is None:
                    left.append(member)
                    iterates.append(part.x.reshape(member.rows, -1))
                elif len(members) > 1 and member.stop.reason is None and statuses & _CONTAGIOUS:
                    alone.append(member)
                else:
                    solved.append(Solved(member, part, complete))
            Finisher(self._blobs, model, self._warm, self._began, self._fail, self._budget.told()).finish(solved)
            members = left
            first = torch.cat(iterates) if iterates else None
        return alone

    def _call(self, model: LoadedModel, block: Block, first: Tensor | None) -> InverseHvpResult[Tensor]:
        # Going on as before takes as much as before. After one death it may: that a checkpoint is there speaks for it.
        same_plan = self._budget.losses < _DEATHS_BY_CHANCE and not self._budget.shortages
        call = SolverCall(self._settings, self._store, self._blobs, model, self._request, same_plan)
        set_up_s = 0.0
        try:
            result = call(block, first)
            set_up_s = result.info.get("timings", {}).get("linearise", 0.0)
        finally:
            # What a solve keeps it keeps too where it fails.
            self._models.settle(self._request.model.digest, set_up_s)
            self._tally.gauge("kept_bytes", self._models.nbytes)
            self._tally.gauge("kept_models", len(self._models))
        block.close(float(result.info.get("hvps", 0.0)))
        if self._rates is not None:
            # The block is one solve, told once, with the time that all of its right-hand sides took to read.
            phases = {
                "load": block.members[0].timings.get("load", 0.0),
                "rhs": sum(member.timings.get("rhs", 0.0) for member in block.members),
            }
            self._rates.note(cost_of(self._request, model, len(result.info["certificate"]), result.info, phases))
        return result

    def _fail(self, member: Member, error: Exception) -> None:
        """Ends a job with what went wrong."""
        if member.ending is not None:
            return
        member.trace.failed(error)
        with member.speaking():
            if is_out_of_memory(error):
                _log.warning("out_of_memory", error=str(error))
                fault: IhvpError = self._shortage(member.job.request, error)
            elif isinstance(error, IhvpError):
                _log.info("job_refused", code=error.code, error=str(error))
                fault = error
            else:
                self._models.drop(self._request.model.digest)
                _log.error("internal_error", exc_info=error)
                fault = unforeseen(error)
            member.end(Ending.failed(fault))

    def _shortage(self, request: JobRequest, error: BaseException) -> IhvpError:
        model, device = self._loaded, solving_device(self._settings.device)
        workload = None if model is None else workload_of(request, model, request.rhs.columns)
        # Where it ran out is still known here, with all that was made until then.
        traceback.clear_frames(error.__traceback__)
        self._clear()
        free = free_bytes(device)
        return out_of_memory(request, workload, self._budget, free, error)

    @contextmanager
    def _phase(self, members: Sequence[Member], name: str, *, at_once: bool = False) -> Iterator[None]:
        with ExitStack() as phases:
            with self._progress.together():
                for member in members:
                    phases.enter_context(member.phase(name, at_once=at_once))
            try:
                yield
            finally:
                with self._progress.together():
                    phases.close()

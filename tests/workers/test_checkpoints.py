"""A solve that was interrupted goes on where it was, and nothing about its state can fail it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from ihvp.blobs.filesystem import FilesystemBlobStore
from ihvp.errors import StoreUnavailable
from ihvp.jobs.memory_store import MemoryJobStore
from ihvp.jobs.record import JobRecord
from ihvp.jobs.states import JobState
from ihvp.jobs.submission import JobRequest, ResolvedRhs
from ihvp.methods import TerminationStatus
from ihvp.settings import Settings
from solvers.checkpoint import SolverState
from solvers.operators import planning
from tests.workers.bench import Bench, when_solving
from tests.workers.problems import job_request, put_tensors, softmax_regression
from workers.checkpoints import JobCheckpoints
from workers.execution import Executor
from workers.stop import StopReason, StopSignal

STATE = SolverState(
    "cg",
    7,
    {"X": torch.randn(2, 3, dtype=torch.float64), "P": torch.empty(0, 3), "order": torch.tensor([1, 0])},
    {"gamma": [1 / 3, None], "plan": {"product": "graph"}, "endings": {"1": {"status": "converged"}}},
)


class Attempt:
    """An attempt at a job, whose checkpoints lie in a store in memory and in real blobs."""

    def __init__(self, store: MemoryJobStore, blobs: FilesystemBlobStore, job: JobRecord) -> None:
        self.store = store
        self.blobs = blobs
        self.job = job
        self.now = 0.0
        self.shutdown = False
        self.stop = StopSignal(lambda: self.shutdown)

    def checkpoints(self) -> JobCheckpoints:
        return JobCheckpoints(self.store, self.blobs, self.job, self.stop, interval_s=10.0, clock=lambda: self.now)

    def next(self) -> Attempt:
        """Another worker's attempt, after this one has given the job back."""
        self.store.release(self.job.id, self.job.attempt)
        again = self.store.claim("another", 30.0)
        assert again is not None
        return Attempt(self.store, self.blobs, again)


@pytest.fixture
def attempt(memory_store: MemoryJobStore, blobs: FilesystemBlobStore, claimed: JobRecord) -> Attempt:
    return Attempt(memory_store, blobs, claimed)


class TestState:
    def test_the_next_attempt_finds_it_to_the_last_bit(self, attempt: Attempt) -> None:
        first = attempt.checkpoints()
        assert first.resume is None
        first.save(STATE)
        again = attempt.next().checkpoints().resume
        assert again is not None
        assert (again.method, again.iteration, again.facts) == (STATE.method, STATE.iteration, STATE.facts)
        assert again.tensors.keys() == STATE.tensors.keys()
        for name, tensor in STATE.tensors.items():
            assert again.tensors[name].dtype == tensor.dtype
            assert torch.equal(again.tensors[name], tensor)

    def test_it_is_due_now_and_then_and_when_the_worker_ends(self, attempt: Attempt) -> None:
        kept = attempt.checkpoints()
        assert not kept.due()
        attempt.now = 10.0
        assert kept.due()
        kept.save(STATE)
        assert not kept.due()
        attempt.shutdown = True
        assert kept.due()
        kept.save(STATE)
        assert not kept.due(), "once is enough"

    def test_a_job_that_ends_otherwise_needs_none(self, attempt: Attempt) -> None:
        kept = attempt.checkpoints()
        attempt.now = 10.0
        attempt.stop.request(StopReason.Cancelled)
        assert not kept.due()

    def test_slow_writes_come_less_often(self, attempt: Attempt, monkeypatch: pytest.MonkeyPatch) -> None:
        note = attempt.store.checkpoint

        def slow(*args: Any, **named: Any) -> str | None:
            attempt.now += 1.0
            return note(*args, **named)

        monkeypatch.setattr(attempt.store, "checkpoint", slow)
        kept = attempt.checkpoints()
        kept.save(STATE)
        attempt.now = 50.0
        assert not kept.due()
        attempt.now = 51.0
        assert kept.due()

    def test_one_state_is_kept_and_none_once_the_job_has_ended(self, attempt: Attempt) -> None:
        kept = attempt.checkpoints()
        for iteration in (1, 2, 3):
            kept.save(SolverState("cg", iteration, STATE.tensors, STATE.facts))
            assert len(list(attempt.blobs)) == 1
        kept.discard()
        assert len(list(attempt.blobs)) == 1, "the job still runs"
        attempt.store.stop(attempt.job.id, attempt.job.attempt, JobState.Cancelled)
        kept.discard()
        assert not list(attempt.blobs)

    def test_a_stale_worker_leaves_the_state_of_the_current_one(self, attempt: Attempt) -> None:
        stale = attempt.checkpoints()
        attempt.next().checkpoints().save(STATE)
        stale.save(SolverState("cg", 1, STATE.tensors, STATE.facts))
        assert attempt.stop.reason is StopReason.Lost
        assert [blob.digest for blob in attempt.blobs] == [attempt.store.get(attempt.job.id).checkpoint]

    @pytest.mark.parametrize("fault", ["disk", "store"])
    def test_what_cannot_be_saved_is_not_kept(
        self, attempt: Attempt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
    ) -> None:
        def away(*_: object, **__: object) -> None:
            raise StoreUnavailable("The store does not answer.")

        if fault == "store":
            monkeypatch.setattr(attempt.store, "checkpoint", away)
        else:
            attempt.blobs = FilesystemBlobStore(tmp_path / "small", max_bytes=10)
        attempt.checkpoints().save(STATE)
        assert attempt.store.get(attempt.job.id).checkpoint is None
        assert attempt.stop.reason is None

    @pytest.mark.parametrize("fault", ["gone", "cut off", "another job's", "another version's"])
    def test_what_cannot_be_read_is_left_aside(
        self, attempt: Attempt, monkeypatch: pytest.MonkeyPatch, fault: str
    ) -> None:
        held = attempt.job
        if fault == "another version's":
            monkeypatch.setattr("workers.checkpoints.__version__", "0.0.0")
        if fault == "another job's":
            attempt.job = held.model_copy(update={"id": "job_other"})
            monkeypatch.setattr(attempt.store, "checkpoint", lambda *_, **__: None)
        attempt.checkpoints().save(STATE)
        monkeypatch.undo()
        (digest,) = (blob.digest for blob in attempt.blobs)
        if fault == "gone":
            attempt.blobs.delete(digest)
        if fault == "cut off":
            path = attempt.blobs.local_path(digest)
            path.chmod(0o600)
            path.write_bytes(path.read_bytes()[:50])
        attempt.job = held.model_copy(update={"checkpoint": digest})
        assert attempt.checkpoints().resume is None


class TestResuming:
    @pytest.fixture
    def request_(self, bench: Bench) -> JobRequest:
        """Some hundred iterations."""
        example = softmax_regression(600, 60, 8)
        p = example.num_params
        b = torch.randn(2, p, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
        rhs = ResolvedRhs(blob=put_tensors(bench.blobs, b=b), shape=[2, p])
        fields = {"hessian_perturbation": 1e-5, "options": {"rtol": 1e-9, "recycle": False}}
        return job_request(example.upload(bench.blobs), p, rhs, **fields)

    def interrupt(self, bench: Bench, request: JobRequest) -> JobRecord:
        """The job, back in the queue after some iterations."""
        job_id = bench.submit(request)

        def shut_down() -> None:
            bench.shutdown = True

        thread = when_solving(bench, job_id, shut_down)
        assert bench.executor.run_next() == [job_id]
        thread.join()
        bench.shutdown = False
        return bench.store.get(job_id)

    @contextmanager
    def another_attempt(self, bench: Bench) -> Iterator[JobCheckpoints]:
        """The checkpoints of a worker that claims the job and gives it back."""
        job = bench.store.claim("another", 30.0)
        assert job is not None
        yield JobCheckpoints(bench.store, bench.blobs, job, StopSignal(lambda: False), interval_s=1.0)
        bench.store.release(job.id, job.attempt)

    def iterations(self, bench: Bench, job: JobRecord, attempt: int) -> list[int]:
        """Those that an attempt has reported."""
        found: list[int] = []
        current = 0
        for event in bench.store.events(job.id, limit=10_000):
            if event.type == "state":
                current = event.data["attempt"]
            elif current == attempt and event.data["iteration"]:
                found.append(event.data["iteration"])
        return found

    def test_a_shutdown_costs_no_iteration_and_changes_no_bit(
        self, bench: Bench, request_: JobRequest, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # A strategy that a measurement changes between the two solves rounds differently.
        monkeypatch.setattr(planning, "LEAST_AHEAD", math.inf)
        whole = bench.run(request_)
        waiting = self.interrupt(bench, request_)
        assert waiting.checkpoint is not None
        assert waiting.checkpoint in bench.store.referenced_blobs()
        done = self.iterations(bench, waiting, 1)[-1]
        bench.executor.run_next()
        job = bench.store.get(waiting.id)
        assert job.result is not None
        assert whole.result is not None
        assert [c.status for c in job.result.certificate] == [TerminationStatus.Converged] * 2
        assert self.iterations(bench, job, 2)[0] == done + 1
        assert [c.iterations for c in job.result.certificate] == [c.iterations for c in whole.result.certificate]
        assert torch.equal(bench.x(job), bench.x(whole))
        assert (bench.document(job).info.model_extra or {})["resumed_at"] == done
        with pytest.raises(Exception, match="No blob"):
            bench.blobs.stat(waiting.checkpoint)

    def test_a_shutdown_between_the_look_for_it_and_the_report_still_saves_the_state(
        self, bench: Bench, request_: JobRequest, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        due, asked = JobCheckpoints.due, []

        def just_before(self: JobCheckpoints) -> bool:
            answer = due(self)
            asked.append(answer)
            bench.shutdown = len(asked) >= 3
            return answer

        monkeypatch.setattr(JobCheckpoints, "due", just_before)
        job_id = bench.submit(request_)
        assert bench.executor.run_next() == [job_id]
        assert bench.store.get(job_id).checkpoint is not None

    def test_products_are_computed_as_they_were_for_the_state(self, bench: Bench, request_: JobRequest) -> None:
        waiting = self.interrupt(bench, request_)
        with self.another_attempt(bench) as kept:
            assert kept.resume is not None
            plan = {**kept.resume.facts["plan"], "product": "recomputed"}
            kept.save(replace(kept.resume, facts={**kept.resume.facts, "plan": plan}))
        bench.executor.run_next()
        info = bench.document(bench.store.get(waiting.id)).info.model_extra or {}
        assert (info["strategy"]["product"], info["resumed_at"]) == ("recomputed", kept.resume.iteration)

    def test_a_state_that_does_not_fit_is_left_aside(self, bench: Bench, request_: JobRequest) -> None:
        waiting = self.interrupt(bench, request_)
        with self.another_attempt(bench) as kept:
            kept.save(SolverState("minres", 5, {"X": torch.zeros(1, 1)}, {}))
        bench.executor.run_next()
        job = bench.store.get(waiting.id)
        assert job.result is not None
        assert {c.status for c in job.result.certificate} == {TerminationStatus.Converged}
        assert self.iterations(bench, job, 3)[0] == 1
        assert "resumed_at" not in (bench.document(job).info.model_extra or {})

    def test_states_are_saved_on_the_way(self, bench: Bench, request_: JobRequest, tmp_path: Path) -> None:
        settings = Settings(data_dir=tmp_path, checkpoint_s=1e-3)
        bench.executor = Executor(settings, bench.store, bench.blobs, "host/test", lambda: False)
        noted: list[str] = []
        note = bench.store.checkpoint

        def heard(job_id: str, attempt: int, digest: str, *, alone: bool) -> str | None:
            noted.append(digest)
            return note(job_id, attempt, digest, alone=alone)

        bench.store.checkpoint = heard  # type: ignore[method-assign]
        job = bench.run(request_)
        assert job.state is JobState.Succeeded
        assert noted
        assert not set(noted) & {blob.digest for blob in bench.blobs}

    def test_jobs_of_a_block_go_on_from_their_own_rows(
        self, bench: Bench, request_: JobRequest, tmp_path: Path
    ) -> None:
        settings = Settings(data_dir=tmp_path, lease_renew_s=0.05, progress_interval_s=0.01)
        p = request_.model.num_params
        b = torch.randn(2, 2, p, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
        rhs = [ResolvedRhs(blob=put_tensors(bench.blobs, b=rows), shape=[2, p]) for rows in b]

        def submit() -> list[str]:
            # A worker of its own each time: nothing but the checkpoints tells it what was found before.
            bench.executor = Executor(settings, bench.store, bench.blobs, "host/test", lambda: bench.shutdown)
            return [bench.submit(request_.model_copy(update={"rhs": each})) for each in rhs]

        def iterations(job_id: str) -> int:
            result = bench.store.get(job_id).result
            assert result is not None
            assert {c.status for c in result.certificate} == {TerminationStatus.Converged}
            return max(c.iterations for c in result.certificate)

        def shut_down() -> None:
            bench.shutdown = True

        whole = submit()
        bench.executor.run_next()
        most = max(iterations(job_id) for job_id in whole)
        ids = submit()
        thread = when_solving(bench, ids[0], shut_down, iterations=most // 2)
        assert bench.executor.run_next() == ids
        thread.join()
        bench.shutdown = False
        left = [bench.store.get(job_id).checkpoint for job_id in ids]
        bench.executor = Executor(settings, bench.store, bench.blobs, "another", lambda: False)
        bench.executor.run_next()
        for job_id in ids:
            info = bench.document(bench.store.get(job_id)).info.model_extra or {}
            assert info["coalesced"] == {"jobs": 2, "rhs": 4}
            assert info["resumed_at"] >= most // 2
        assert max(iterations(job_id) for job_id in ids) < most
        assert not {blob.digest for blob in bench.blobs} & {digest for digest in left if digest}

    def test_rows_that_do_not_fit_are_left_aside(self, bench: Bench, request_: JobRequest) -> None:
        job_id = bench.submit(request_)
        with self.another_attempt(bench) as kept:
            kept.save_iterate(5, torch.full((2, 3), 1.0))
        bench.executor.run_next()
        done = bench.store.get(job_id)
        assert done.result is not None
        assert {c.status for c in done.result.certificate} == {TerminationStatus.Converged}

"""Jobs that are solved as one block: each ends in its own way, with the answer that it would have had alone."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

import workers.finishing
from ihvp.jobs.record import JobRecord
from ihvp.jobs.states import JobState
from ihvp.jobs.store import LeaseState
from ihvp.jobs.submission import InfluenceRequest, JobRequest, Priority, ResolvedRhs
from ihvp.methods import InversionMethod, TerminationStatus
from ihvp.models.spec import ModelSpec
from solvers import IterationReport, Problem
from tests.waiting import eventually
from tests.workers.bench import Bench, dense, points, slow_request, when_solving
from tests.workers.problems import Example, job_request, put_tensors, softmax_regression
from workers.block import Block


def gradient(digits: Example, nth: int) -> Tensor:
    return digits.gradients(digits.x[nth : nth + 1], digits.y[nth : nth + 1])[0]


def single(bench: Bench, digits: Example, spec: ModelSpec, nth: int, **changes: Any) -> JobRequest:
    """One vector: the gradient of one digit."""
    b = put_tensors(bench.blobs, b=gradient(digits, nth))
    return job_request(spec, digits.num_params, ResolvedRhs(blob=b, shape=[digits.num_params]), **changes)


def info(bench: Bench, job: JobRecord) -> dict[str, Any]:
    return bench.document(job).info.model_extra or {}


def run_all(bench: Bench, requests: Sequence[JobRequest]) -> list[JobRecord]:
    """All of them, queued before the worker looks; one look."""
    ids = [bench.submit(request) for request in requests]
    bench.executor.run_next()
    return [bench.store.get(job_id) for job_id in ids]


class TestResults:
    def test_sixteen_single_vectors_are_one_solve_and_sixteen_results(
        self, bench: Bench, digits: Example, digits_hessian: Tensor, spec: ModelSpec
    ) -> None:
        requests = [single(bench, digits, spec, nth, options={"rtol": 1e-9, "recycle": False}) for nth in range(16)]
        together = run_all(bench, requests)
        alone = [bench.run(request) for request in requests]
        for nth, (job, other) in enumerate(zip(together, alone, strict=True)):
            assert job.state is JobState.Succeeded
            assert job.result is not None
            assert other.result is not None
            assert job.result.shape == [digits.num_params]
            assert [c.status for c in job.result.certificate] == [TerminationStatus.Converged]
            x = bench.x(job)
            scale = float(x.norm())
            assert float((x - dense(digits_hessian, gradient(digits, nth)[None])[0]).norm()) < 1e-7 * scale
            assert float((x - bench.x(other)).norm()) < 1e-7 * scale
            assert info(bench, job)["coalesced"] == {"jobs": 16, "rhs": 16}
            assert "coalesced" not in info(bench, other)
            assert bench.document(job).provenance.job_id == job.id
            assert len(info(bench, job)["niter"]) == 1
        assert info(bench, together[0])["hvps"] < sum(info(bench, job)["hvps"] for job in alone) / 2

    def test_blocks_of_several_rows_get_their_own_rows_back(
        self, bench: Bench, digits: Example, digits_hessian: Tensor, spec: ModelSpec
    ) -> None:
        rhs = [points(bench, digits, 3), points(bench, digits, 1), points(bench, digits, 5)]
        jobs = run_all(bench, [job_request(spec, digits.num_params, each) for each in rhs])
        for job, each in zip(jobs, rhs, strict=True):
            count = each.shape[0]
            x = bench.x(job)
            assert list(x.shape) == each.shape
            expected = dense(digits_hessian, digits.gradients(digits.x[:count], digits.y[:count]))
            assert float((x - expected).norm() / expected.norm()) < 1e-6
            assert len(info(bench, job)["optimal"]) == count

    def test_influence_is_that_of_the_jobs_own_solutions(self, bench: Bench, digits: Example, spec: ModelSpec) -> None:
        influence = InfluenceRequest(on="training")
        plain, asked = single(bench, digits, spec, 0), single(bench, digits, spec, 1, influence=influence)
        first, second = run_all(bench, [plain, asked])
        alone = bench.run(asked)
        assert first.result is not None
        assert first.result.influence_digest is None
        scores = [bench.tensor(job.result.influence_digest, "scores") for job in (second, alone)]  # type: ignore[union-attr, arg-type]
        assert scores[0].shape == (1, len(digits.x))
        torch.testing.assert_close(scores[0], scores[1], rtol=1e-5, atol=1e-7 * float(scores[1].abs().max()))

    @pytest.mark.parametrize("method", [m.value for m in InversionMethod])
    def test_each_job_gets_as_many_entries_as_it_has_rows(self, bench: Bench, method: str) -> None:
        """Whatever of a method's info grows with the block is divided among the jobs."""
        example = softmax_regression(60, 6, 3)
        spec = example.upload(bench.blobs)
        p = example.num_params
        requests = [
            job_request(
                spec,
                p,
                ResolvedRhs(blob=put_tensors(bench.blobs, b=torch.randn(rows, p)), shape=[rows, p]),
                method=InversionMethod(method),
                hessian_perturbation=0.5,
            )
            for rows in (2, 3, 4)
        ]
        jobs = run_all(bench, requests)
        for job, rows in zip(jobs, (2, 3, 4), strict=True):
            whole = {name: value for name, value in info(bench, job).items() if isinstance(value, list)}
            assert info(bench, job)["coalesced"]["rhs"] == 9
            assert [name for name, value in whole.items() if len(value) == 9] == []
            assert len(bench.document(job).info.certificate) == rows


class TestFaults:
    def test_a_bad_right_hand_side_harms_its_own_job_alone(
        self, bench: Bench, digits: Example, spec: ModelSpec
    ) -> None:
        p = digits.num_params
        bad = put_tensors(bench.blobs, b=torch.full((p,), float("nan")))
        nan = job_request(spec, p, ResolvedRhs(blob=bad, shape=[p]))
        short = job_request(spec, p, ResolvedRhs(blob=put_tensors(bench.blobs, b=torch.ones(3)), shape=[p]))
        gone = job_request(spec, p, ResolvedRhs(blob="sha256:" + "0" * 64, shape=[p]))
        good = [single(bench, digits, spec, nth) for nth in range(2)]
        jobs = run_all(bench, [good[0], nan, short, gone, good[1]])
        assert [job.error.code if job.error else job.state.value for job in jobs] == [
            "succeeded",
            "rhs_not_finite",
            "rhs_shape_mismatch",
            "blob_not_found",
            "succeeded",
        ]
        assert info(bench, jobs[0])["coalesced"] == {"jobs": 2, "rhs": 2}

    def test_a_block_that_does_not_fit_is_solved_one_by_one(
        self, bench: Bench, digits: Example, spec: ModelSpec, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        solve, rows = Problem.solve, []

        def cramped(self: Problem, method: str, b: Tensor, **options: Any) -> Any:
            rows.append(b.ndim)
            if b.ndim > 1:
                return torch.empty(2**60, dtype=torch.uint8)
            return solve(self, method, b, **options)

        monkeypatch.setattr(Problem, "solve", cramped)
        jobs = run_all(bench, [single(bench, digits, spec, nth) for nth in range(3)])
        assert [job.state for job in jobs] == [JobState.Succeeded] * 3
        assert [job.attempt for job in jobs] == [1] * 3
        assert rows == [2, 1, 1, 1]

    def test_an_error_that_one_of_them_causes_fails_that_one(
        self, bench: Bench, digits: Example, spec: ModelSpec, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        solve = Problem.solve
        poison = gradient(digits, 1)

        def picky(self: Problem, method: str, b: Tensor, **options: Any) -> Any:
            if any(torch.equal(row, poison) for row in b.reshape(-1, b.shape[-1])):
                raise ZeroDivisionError
            return solve(self, method, b, **options)

        monkeypatch.setattr(Problem, "solve", picky)
        jobs = run_all(bench, [single(bench, digits, spec, nth) for nth in range(3)])
        assert [job.state.value for job in jobs] == ["succeeded", "failed", "succeeded"]

    def test_what_overflows_takes_no_other_with_it(self, bench: Bench, digits: Example, spec: ModelSpec) -> None:
        """Directions are shared within a block, and with them what is not finite."""
        single_precision = digits.upload(bench.blobs, dtype="float32")
        p = digits.num_params
        huge = put_tensors(bench.blobs, b=torch.full((p,), 1e30))
        requests = [single(bench, digits, single_precision, nth) for nth in range(2)]
        requests.insert(1, job_request(single_precision, p, ResolvedRhs(blob=huge, shape=[p])))
        jobs = run_all(bench, requests)
        statuses = [job.result.certificate[0].status for job in jobs if job.result is not None]
        assert statuses[0] == statuses[2] == TerminationStatus.Converged

    def test_what_a_block_may_have_broken_is_solved_once_more_alone(
        self, bench: Bench, digits: Example, spec: ModelSpec, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        solve = Problem.solve

        def breaks(self: Problem, method: str, b: Tensor, **options: Any) -> Any:
            """The middle one of three drags the last one down."""
            result = solve(self, method, b, **options)
            if b.ndim > 1:
                for certificate in result.info["certificate"][1:]:
                    certificate["status"] = "negative_curvature"
            return result

        monkeypatch.setattr(Problem, "solve", breaks)
        jobs = run_all(bench, [single(bench, digits, spec, nth) for nth in range(3)])
        assert [job.result.certificate[0].status.value for job in jobs if job.result] == ["converged"] * 3
        assert ["coalesced" in info(bench, job) for job in jobs] == [True, False, False]

    def test_a_result_that_cannot_be_stored_fails_its_own_job(
        self, bench: Bench, digits: Example, spec: ModelSpec, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write, written = workers.finishing.write_tensor, []

        def full_once(*args: Any) -> Any:
            written.append(1)
            if len(written) == 1:
                raise OSError(28, "No space left on device")
            return write(*args)

        monkeypatch.setattr(workers.finishing, "write_tensor", full_once)
        jobs = run_all(bench, [single(bench, digits, spec, nth) for nth in range(3)])
        assert [job.state.value for job in jobs] == ["failed", "succeeded", "succeeded"]


class TestStopping:
    def test_who_is_cancelled_in_the_queue_is_not_solved(self, bench: Bench, digits: Example, spec: ModelSpec) -> None:
        ids = [bench.submit(single(bench, digits, spec, nth)) for nth in range(3)]
        bench.store.request_cancel(ids[1])
        bench.executor.run_next()
        jobs = [bench.store.get(job_id) for job_id in ids]
        assert [job.state.value for job in jobs] == ["succeeded", "cancelled", "succeeded"]
        assert info(bench, jobs[0])["coalesced"]["jobs"] == 2

    def test_who_is_cancelled_in_the_solve_ends_at_once_and_the_others_go_on(self, bench: Bench) -> None:
        ids = [bench.submit(slow_request(bench)) for _ in range(3)]
        seen: list[str] = []

        def cancel() -> None:
            bench.store.request_cancel(ids[1])
            eventually(lambda: bench.store.get(ids[1]).finished)
            seen.extend(bench.store.get(job_id).state.value for job_id in ids)
            for job_id in ids:
                if job_id != ids[1]:
                    bench.store.request_cancel(job_id)

        thread = when_solving(bench, ids[0], cancel)
        bench.executor.run_next()
        thread.join()
        assert seen == ["running", "cancelled", "running"]
        assert [bench.store.get(job_id).state for job_id in ids] == [JobState.Cancelled] * 3

    def test_at_its_deadline_one_ends_with_what_it_has_and_the_others_converge(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        example = softmax_regression(1500, 60, 8)
        p = example.num_params
        spec = example.upload(bench.blobs)
        b = torch.randn(3, p, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
        ids = []
        for row, deadline_s in zip(b, (None, None, 0.6), strict=True):
            rhs = ResolvedRhs(blob=put_tensors(bench.blobs, b=row), shape=[p])
            fields = {"hessian_perturbation": 1e-4, "options": {"rtol": 1e-8}, "deadline_s": deadline_s}
            ids.append(bench.submit(job_request(spec, p, rhs, **fields)))  # type: ignore[arg-type]

        step, slow_until = Block.__call__, time.monotonic() + 0.8

        def slowly(self: Block, report: IterationReport) -> TerminationStatus | None:
            if time.monotonic() < slow_until:
                time.sleep(0.05)
            return step(self, report)

        monkeypatch.setattr(Block, "__call__", slowly)
        bench.executor.run_next()
        jobs = [bench.store.get(job_id) for job_id in ids]
        assert [job.state.value for job in jobs] == ["succeeded", "succeeded", "expired"]
        assert [job.result.certificate[0].status.value for job in jobs] == ["converged", "converged", "deadline"]  # type: ignore[union-attr]

    def test_a_shutdown_gives_all_of_them_back_in_their_order(self, bench: Bench) -> None:
        ids = [bench.submit(slow_request(bench)) for _ in range(3)]

        def shut_down() -> None:
            bench.shutdown = True

        thread = when_solving(bench, ids[0], shut_down)
        assert bench.executor.run_next() == ids
        thread.join()
        assert [bench.store.queue_position(job_id) for job_id in ids] == [0, 1, 2]

    def test_one_that_another_worker_took_over_writes_nothing_more(self, bench: Bench) -> None:
        ids = [bench.submit(slow_request(bench)) for _ in range(2)]
        renew = bench.store.renew

        def lost(job_id: str, attempt: int, lease_s: float) -> LeaseState:
            return LeaseState.Lost if job_id == ids[0] else renew(job_id, attempt, lease_s)

        def act() -> None:
            bench.store.renew = lost  # type: ignore[method-assign]
            time.sleep(0.2)
            bench.store.request_cancel(ids[1])

        thread = when_solving(bench, ids[1], act)
        bench.executor.run_next()
        thread.join()
        assert [bench.store.get(job_id).state for job_id in ids] == [JobState.Running, JobState.Cancelled]

    def test_each_job_shows_its_own_progress(self, bench: Bench) -> None:
        ids = [bench.submit(slow_request(bench)) for _ in range(2)]

        def cancel() -> None:
            for job_id in ids:
                bench.store.request_cancel(job_id)

        thread = when_solving(bench, ids[1], cancel)
        bench.executor.run_next()
        thread.join()
        for job_id in ids:
            progress = bench.store.get(job_id).progress
            assert progress is not None
            assert len(progress.relative_residual) == 16


class TestOrder:
    def test_a_job_of_another_model_with_a_higher_priority_is_not_overtaken(
        self, bench: Bench, digits: Example, spec: ModelSpec
    ) -> None:
        other = digits.upload(bench.blobs, data={**spec.data.model_dump(), "batch_size": 100})
        ids = [
            bench.submit(single(bench, digits, model, nth, priority=priority))
            for nth, (model, priority) in enumerate(
                [(spec, Priority.High), (other, Priority.High), (spec, Priority.Normal)]
            )
        ]
        bench.executor.run_next()
        assert [bench.store.get(job_id).state.value for job_id in ids] == ["succeeded", "queued", "queued"]
        bench.executor.run_next()
        assert [bench.store.get(job_id).state.value for job_id in ids] == ["succeeded", "succeeded", "queued"]

"""One job from claim to end: right numbers, a complete document, and every way of ending otherwise."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

import workers.solving
from ihvp.errors import StoreUnavailable
from ihvp.factors.memory_index import MemoryFactorIndex
from ihvp.jobs.states import JobState
from ihvp.jobs.submission import InfluenceRequest, ResolvedRhs
from ihvp.methods import InversionMethod, TerminationStatus
from ihvp.models.spec import ModelSpec
from ihvp.settings import Settings
from solvers.operators import planning
from tests.workers.bench import Bench, dense, points, slow_request, when_solving
from tests.workers.problems import Example, job_request, put_tensors
from workers.execution import Executor


class TestResult:
    def test_x_is_the_dense_oracles_and_certified(
        self, bench: Bench, digits: Example, digits_hessian: Tensor, spec: ModelSpec
    ) -> None:
        job = bench.run(job_request(spec, digits.num_params, points(bench, digits, 4)))
        assert job.state is JobState.Succeeded
        assert job.result is not None
        assert [c.status for c in job.result.certificate] == [TerminationStatus.Converged] * 4
        b = digits.gradients(digits.x[:4], digits.y[:4])
        expected = dense(digits_hessian, b)
        x = bench.x(job)
        assert x.dtype == torch.float64
        assert float((x - expected).norm() / expected.norm()) < 1e-6
        matrix = digits_hessian + 0.1 * torch.eye(digits.num_params, dtype=torch.float64)
        for row, rhs, certificate in zip(x, b, job.result.certificate, strict=True):
            true = float((matrix @ row - rhs).norm() / rhs.norm())
            assert certificate.relative_residual == pytest.approx(true, rel=1e-2, abs=1e-13)

    def test_a_single_vector_keeps_its_shape(self, bench: Bench, digits: Example, spec: ModelSpec) -> None:
        b = torch.randn(digits.num_params, dtype=torch.float64)
        rhs = ResolvedRhs(blob=put_tensors(bench.blobs, b=b), shape=[digits.num_params])
        job = bench.run(job_request(spec, digits.num_params, rhs))
        assert bench.x(job).shape == (digits.num_params,)
        assert job.result is not None
        assert job.result.shape == [digits.num_params]
        assert len(job.result.certificate) == 1

    def test_influence_scores_are_products_with_the_training_gradients(
        self, bench: Bench, digits: Example, digits_hessian: Tensor, spec: ModelSpec
    ) -> None:
        request = job_request(
            spec, digits.num_params, points(bench, digits, 10), influence=InfluenceRequest(on="training")
        )
        job = bench.run(request)
        assert job.result is not None
        assert job.result.influence_digest is not None
        scores = bench.tensor(job.result.influence_digest, "scores")
        assert scores.shape == (10, len(digits.x))
        b = digits.gradients(digits.x[:10], digits.y[:10])
        expected = dense(digits_hessian, b) @ digits.gradients(digits.x[:30], digits.y[:30]).T
        torch.testing.assert_close(scores[:, :30], expected, rtol=1e-5, atol=1e-7 * float(expected.abs().max()))

    @pytest.mark.parametrize(
        ("method", "options"),
        [
            ("direct", {}),
            ("arnoldi", {"rank_estimate": 5}),
            ("lissa", {"maxiter": 20, "scale": 100.0}),
            ("nystrom", {"rank": 20}),
            ("kfac", {}),
            ("ekfac", {}),
            ("datainf", {}),
        ],
    )
    def test_every_method_yields_a_document_without_nan(
        self, bench: Bench, digits: Example, method: str, options: dict[str, Any]
    ) -> None:
        spec = digits.upload(bench.blobs, parameters={"include": ["2.*"]})
        p = sum(t.numel() for n, t in digits.module.named_parameters() if n.startswith("2."))
        b = put_tensors(bench.blobs, b=torch.randn(2, p))
        request = job_request(
            spec, p, ResolvedRhs(blob=b, shape=[2, p]), method=InversionMethod(method), options=options
        )
        job = bench.run(request)
        document = bench.document(job)
        assert document.info.method == method
        with safe_open(bench.blobs.local_path(job.result.digest), framework="pt") as file:  # type: ignore[union-attr]
            text = file.metadata()["ihvp"]
        json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} in the document"))
        extra = document.info.model_extra or {}
        if method == "direct":
            assert extra["left_out"] == {"hessian": f"tensor [{p}, {p}]"}
        if method == "arnoldi":
            assert len(extra["eigenvalues"]) == 5
        if method == "datainf":
            assert set(extra["mean_squared_gradients"]) == {"2.weight", "2.bias"}

    def test_a_solve_that_does_not_converge_is_still_a_result(
        self, bench: Bench, digits: Example, spec: ModelSpec
    ) -> None:
        request = job_request(spec, digits.num_params, points(bench, digits, 2), options={"maxiter": 1})
        job = bench.run(request)
        assert job.state is JobState.Succeeded
        assert job.result is not None
        assert {c.status for c in job.result.certificate} == {TerminationStatus.MaxIterations}
        assert all(c.advice for c in job.result.certificate)

    def test_the_document_says_what_was_run(self, bench: Bench, digits: Example, spec: ModelSpec) -> None:
        rhs = points(bench, digits, 1)
        job = bench.run(job_request(spec, digits.num_params, rhs))
        document = bench.document(job)
        provenance = document.provenance
        assert (provenance.job_id, provenance.attempt) == (job.id, 1)
        assert (provenance.model_digest, provenance.weights) == (spec.digest, spec.weights)
        assert provenance.data == {"inputs": spec.data.inputs, "targets": spec.data.targets}
        assert provenance.rhs["gradient_of"]["inputs"] == rhs.gradient_of.inputs  # type: ignore[union-attr]
        assert (provenance.dtype, provenance.device) == ("float64", "cpu")
        assert provenance.versions["torch"] == torch.__version__
        assert {"ihvp", "python", "numpy", "safetensors"} <= set(provenance.versions)
        assert ModelSpec.model_validate(provenance.spec) == spec
        assert (provenance.method, provenance.curvature, provenance.hessian_perturbation) == ("cg", "hessian", 0.1)
        assert (provenance.options, provenance.influence) == (job.request.options, False)
        assert provenance.device_name
        assert {"load", "rhs", "solve", "certify"} <= set(document.info.timings)
        assert document.info.options["rtol"] == 1e-8

    def test_two_runs_of_a_job_store_the_same_x(
        self, bench: Bench, digits: Example, spec: ModelSpec, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # A strategy that a measurement changes between the two rounds differently.
        monkeypatch.setattr(planning, "LEAST_AHEAD", math.inf)
        request = job_request(spec, digits.num_params, points(bench, digits, 3), options={"recycle": False})
        first, second = bench.run(request), bench.run(request)
        assert torch.equal(bench.x(first), bench.x(second))

    def test_a_second_job_is_shorter_for_what_the_first_has_shown(
        self, bench: Bench, digits: Example, spec: ModelSpec
    ) -> None:
        request = job_request(spec, digits.num_params, points(bench, digits, 3))
        first, second = bench.run(request), bench.run(request)
        assert first.result is not None
        assert second.result is not None
        needed = [max(c.iterations for c in job.result.certificate) for job in (first, second)]
        assert needed[1] < needed[0]
        torch.testing.assert_close(bench.x(second), bench.x(first), rtol=1e-2, atol=1e-2)


class TestWarmModels:
    def test_the_second_job_on_a_model_does_not_load_it_again(
        self, bench: Bench, digits: Example, spec: ModelSpec
    ) -> None:
        request = job_request(spec, digits.num_params, points(bench, digits, 2))
        cold, warm = bench.run(request), bench.run(request)
        assert not bench.document(cold).provenance.warm_model
        assert bench.document(warm).provenance.warm_model
        load = [bench.document(job).info.timings["load"] for job in (cold, warm)]
        assert load[1] < load[0] / 10

    def test_models_beyond_the_cache_make_room_for_each_other(
        self, bench: Bench, digits: Example, spec: ModelSpec, tmp_path: Path
    ) -> None:
        small = Settings(data_dir=tmp_path, cache_bytes=1)
        bench.executor = Executor(small, bench.store, bench.blobs, "host/test", lambda: False)
        other = digits.upload(bench.blobs, data={**spec.data.model_dump(), "batch_size": 100})
        rhs = points(bench, digits, 1)

        def warm(model: ModelSpec) -> bool:
            job = bench.run(job_request(model, digits.num_params, rhs))
            return bool(bench.document(job).provenance.warm_model)

        assert [warm(model) for model in (spec, spec, other, spec)] == [False, True, False, False]

    def test_another_worker_loads_what_the_first_has_made(
        self, bench: Bench, digits: Example, spec: ModelSpec, tmp_path: Path
    ) -> None:
        options = {"preconditioner": "nystrom", "preconditioner_rank": 40}
        request = job_request(spec, digits.num_params, points(bench, digits, 1), options=options)
        index = MemoryFactorIndex(2**30)

        def worker() -> Executor:
            return Executor(Settings(data_dir=tmp_path), bench.store, bench.blobs, "w", lambda: False, index)

        where: list[set[str]] = []
        found: list[Tensor] = []
        for executor in (first := worker(), first, worker()):
            bench.executor = executor
            job = bench.run(request)
            where.append(set((bench.document(job).info.model_extra or {})["factors"].values()))
            found.append(bench.x(job))
        assert where == [{"made"}, {"kept"}, {"loaded"}]
        assert torch.equal(found[0], found[2])


class TestFailure:
    def test_a_callers_error_is_kept_with_its_parts(self, bench: Bench, digits: Example, spec: ModelSpec) -> None:
        b = put_tensors(bench.blobs, b=torch.full((digits.num_params,), float("nan")))
        job = bench.run(job_request(spec, digits.num_params, ResolvedRhs(blob=b, shape=[digits.num_params])))
        assert job.state is JobState.Failed
        assert job.error is not None
        assert job.error.code == "rhs_not_finite"
        assert job.error.given == "nan at [0]"
        assert job.attempt == 1, "a caller's error is not retried"

    def test_an_unforeseen_error_shows_its_type_and_nothing_else(
        self, bench: Bench, digits: Example, spec: ModelSpec, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def broken(*_: object, **__: object) -> None:
            raise ZeroDivisionError("/srv/secret/path")

        monkeypatch.setattr(workers.solving, "resolve_rhs", broken)
        job = bench.run(job_request(spec, digits.num_params, points(bench, digits, 1)))
        assert job.error is not None
        assert job.error.code == "internal_error"
        assert "ZeroDivisionError" in job.error.message
        assert "secret" not in job.error.model_dump_json()

    def test_running_out_of_memory_says_what_was_asked_for(
        self, bench: Bench, digits: Example, spec: ModelSpec, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def too_much(*_: object, **__: object) -> Tensor:
            return torch.empty(2**60, dtype=torch.uint8)

        monkeypatch.setattr(workers.solving, "resolve_rhs", too_much)
        job = bench.run(job_request(spec, digits.num_params, points(bench, digits, 1)))
        assert job.error is not None
        assert job.error.code == "out_of_memory"
        assert str(digits.num_params) in str(job.error.given)

    def test_the_worker_goes_on_after_a_failed_job(self, bench: Bench, digits: Example, spec: ModelSpec) -> None:
        gone = ModelSpec.model_validate({**spec.model_dump(), "weights": "sha256:" + "0" * 64})
        rhs = points(bench, digits, 1)
        assert bench.run(job_request(gone, digits.num_params, rhs)).error.code == "blob_not_found"  # type: ignore[union-attr]
        assert bench.run(job_request(spec, digits.num_params, rhs)).state is JobState.Succeeded


class TestStopping:
    def test_cancelling_ends_a_solve_within_an_iteration(self, bench: Bench) -> None:
        job_id = bench.submit(slow_request(bench))
        shown: list[int] = []

        def cancel() -> None:
            progress = bench.store.request_cancel(job_id).progress
            shown.append(progress.iteration if progress else 0)

        thread = when_solving(bench, job_id, cancel)
        bench.executor.run_next()
        thread.join()
        job = bench.store.get(job_id)
        assert job.state is JobState.Cancelled
        assert job.result is None
        # Heard with the next report, a hundredth of a second later; told to the solver in that iteration.
        assert job.progress is not None
        assert job.progress.iteration - shown[0] <= 5

    def test_shutting_down_gives_the_job_back(self, bench: Bench) -> None:
        job_id = bench.submit(slow_request(bench))

        def shut_down() -> None:
            bench.shutdown = True

        thread = when_solving(bench, job_id, shut_down)
        released = bench.executor.run_next()
        thread.join()
        assert released == [job_id]
        assert bench.store.get(job_id).state is JobState.Queued
        assert bench.store.queue_length() == 1

    def test_at_the_deadline_the_best_so_far_is_kept(self, bench: Bench) -> None:
        job_id = bench.submit(slow_request(bench, deadline_s=1.5, influence=InfluenceRequest(on="training")))
        bench.executor.run_next()
        job = bench.store.get(job_id)
        assert job.state is JobState.Expired
        assert job.result is not None
        assert {c.status for c in job.result.certificate} == {TerminationStatus.Deadline}
        assert job.result.influence_digest is None
        assert bool(bench.x(job).isfinite().all())

    def test_a_stale_attempt_writes_nothing(self, bench: Bench) -> None:
        job_id = bench.submit(slow_request(bench))
        thread = when_solving(bench, job_id, lambda: _take_over(bench))
        bench.executor.run_next()
        thread.join()
        job = bench.store.get(job_id)
        assert (job.state, job.attempt, job.owner) == (JobState.Running, 2, "another")
        assert job.result is None

    def test_an_ending_waits_for_a_store_that_is_away(
        self,
        bench: Bench,
        digits: Example,
        spec: ModelSpec,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        finish, refused = bench.store.finish_all, []

        def away_once(*args: Any) -> Any:
            if not refused:
                refused.append(1)
                raise StoreUnavailable("The store does not answer.")
            return finish(*args)

        monkeypatch.setattr(bench.store, "finish_all", away_once)
        job = bench.run(job_request(spec, digits.num_params, points(bench, digits, 1)))
        assert refused
        assert job.state is JobState.Succeeded

    def test_nothing_waits(self, bench: Bench) -> None:
        assert bench.executor.run_next() == []


def _take_over(bench: Bench) -> None:
    bench.store.reclaim_owner("host/test", 3)
    assert bench.store.claim("another", 30.0) is not None

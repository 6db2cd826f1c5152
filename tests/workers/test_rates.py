"""What a worker tells of the cost of its solves: true, at no job's expense, and predicted ever better."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import pytest
import torch

import workers.solving
from ihvp.blobs.filesystem import FilesystemBlobStore
from ihvp.costs.memory_store import MemoryCostStore
from ihvp.costs.observation import ERROR_BOUNDS, Observation
from ihvp.costs.prediction import predict
from ihvp.errors import StoreUnavailable
from ihvp.jobs.memory_store import MemoryJobStore
from ihvp.jobs.states import JobState
from ihvp.jobs.submission import JobRequest, ResolvedRhs
from ihvp.methods import Curvature, InversionMethod
from ihvp.settings import Settings
from tests.workers.problems import Example, job_request, new_id, put_tensors, softmax_regression
from workers.execution import Executor
from workers.rates import RateRecorder, cost_of
from workers.resolvers.model import load_model


class Rated:
    """An executor that tells costs, and the store that it tells them to."""

    def __init__(self, folder: Path, costs: Any = None) -> None:
        self.example: Example = softmax_regression(200, 20, 4)
        self.costs = MemoryCostStore() if costs is None else costs
        self.jobs = MemoryJobStore()
        self.blobs = FilesystemBlobStore(folder / "blobs")
        self.now = 0.0
        self.rates = RateRecorder(self.costs, clock=lambda: self.now)
        settings = Settings(data_dir=folder)
        self.executor = Executor(settings, self.jobs, self.blobs, "w", lambda: False, rates=self.rates)

    def request(self, columns: int = 3, **changes: Any) -> JobRequest:
        p = self.example.num_params
        b = torch.randn(columns, p, generator=torch.Generator().manual_seed(3))
        rhs = ResolvedRhs(blob=put_tensors(self.blobs, b=b), shape=[columns, p])
        fields = {"options": {"rtol": 1e-4}, **changes}
        return job_request(self.example.upload(self.blobs), p, rhs, **fields)

    def run(self, *requests: JobRequest) -> None:
        jobs = [self.jobs.create(new_id(), request).id for request in requests]
        self.executor.run_next()
        assert {self.jobs.get(job).state for job in jobs} == {JobState.Succeeded}
        self.rates.flush()
        self.now += 10

    def seen(self, request: JobRequest) -> list[Observation]:
        return list(self.costs.known(request.model.digest, request.curvature).here)


@pytest.fixture
def rated(tmp_path: Path) -> Rated:
    return Rated(tmp_path)


def test_a_solve_leaves_what_it_took(rated: Rated) -> None:
    request = rated.request()
    rated.run(request)
    (seen,) = rated.seen(request)
    assert (seen.method, seen.curvature, seen.dtype) == (InversionMethod.Cg, Curvature.Hessian, "float64")
    assert (seen.num_params, seen.num_points, seen.columns) == (rated.example.num_params, 200, 3)
    assert (seen.damping, seen.rtol, seen.architecture) == (0.1, 1e-4, "linear")
    assert seen.reached
    assert seen.iterations > 1
    assert seen.products > seen.iterations
    assert seen.seconds_per_product is not None
    assert 0 < seen.seconds_per_product * seen.products <= seen.seconds < 60
    assert seen.load_s > 0
    assert seen.kept_bytes


def test_a_block_of_jobs_is_one_solve_and_one_error(rated: Rated) -> None:
    """Counted for each job, one block of 64 would outweigh all that was ever predicted."""
    request = rated.request()
    rated.run(*[request] * 8)
    (seen,) = rated.seen(request)
    assert seen.columns == 24
    assert sum(rated.costs.errors()[InversionMethod.Cg]) == 1
    rated.run(*[request] * 8)
    assert [seen.columns for seen in rated.seen(request)] == [24, 24]
    assert sum(rated.costs.errors()[InversionMethod.Cg]) == 2


def test_the_error_compares_the_whole_block_with_its_prediction(rated: Rated) -> None:
    request = rated.request()
    expected: list[float] = []
    record = rated.costs.record

    def heard(seen: Observation, log_error: float | None) -> None:
        assert log_error is not None
        expected.append(seen.seconds / math.exp(log_error))
        record(seen, log_error)

    rated.costs.record = heard
    rated.run(request)
    before = rated.costs.known(request.model.digest, request.curvature)
    rated.run(*[request] * 8)
    model = load_model(rated.blobs, request.model.spec, memory_budget=10**8)
    certificate = [{"status": "converged", "iterations": 1}]
    block, job = (cost_of(request, model, columns, {"certificate": certificate}, {}) for columns in (24, 3))
    assert expected[1] == pytest.approx(predict(block.workload, block.task, before).seconds)
    assert expected[1] > predict(job.workload, job.task, before).seconds


def test_reading_all_right_hand_sides_of_a_block_is_in_its_seconds(
    rated: Rated, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolve = workers.solving.resolve_rhs

    def slowly(*args: Any) -> torch.Tensor:
        time.sleep(0.05)
        return resolve(*args)

    monkeypatch.setattr(workers.solving, "resolve_rhs", slowly)
    request = rated.request()
    rated.run(*[request] * 6)
    (seen,) = rated.seen(request)
    assert seen.seconds >= 6 * 0.05


def test_iterations_that_were_cut_short_are_marked(rated: Rated) -> None:
    request = rated.request(options={"rtol": 1e-6, "maxiter": 1})
    rated.run(request)
    assert [seen.reached for seen in rated.seen(request)] == [False]


def test_curvatures_and_methods_are_told_apart(rated: Rated) -> None:
    hessian, ggn = rated.request(), rated.request(curvature=Curvature.Ggn)
    rated.run(hessian)
    rated.run(ggn)
    rated.run(rated.request(method=InversionMethod.Direct, options={}))
    assert [seen.method.value for seen in rated.seen(hessian)] == ["direct", "cg"]
    assert [seen.method.value for seen in rated.seen(ggn)] == ["cg"]
    assert rated.seen(hessian)[0].products >= rated.example.num_params


def test_a_burst_of_like_solves_is_told_once_a_second(rated: Rated) -> None:
    request = rated.request()
    rated.run(request)
    for _ in range(3):
        rated.now -= 9.9
        rated.run(request)
    assert len(rated.seen(request)) == 1
    rated.run(rated.request(method=InversionMethod.Direct, options={}))
    rated.run(request)
    assert len(rated.seen(request)) == 3


def test_errors_of_prediction_are_counted_once_the_solve_was_not_stopped(rated: Rated) -> None:
    request = rated.request(options={"rtol": 1e-4})
    model = load_model(rated.blobs, request.model.spec, memory_budget=10**8)
    certificate = [{"status": "converged", "iterations": 5}] * 3
    info: dict[str, Any] = {"certificate": certificate, "hvps": 18.0, "timings": {"solve": 90.0}}
    stopped = [{"status": "cancelled", "iterations": 1}] * 3
    like_the_last, slower = cost_of(request, model, 3, info, {}), {**info, "timings": {"solve": 900.0}}
    for cost in (
        like_the_last,
        like_the_last,
        like_the_last,
        cost_of(request, model, 3, slower, {}),
        cost_of(request, model, 3, {**info, "certificate": stopped}, {}),
    ):
        rated.rates.note(cost)
        rated.rates.flush()
        rated.now += 10
    counts = dict(zip(ERROR_BOUNDS, rated.costs.errors()[InversionMethod.Cg], strict=True))
    # The first was expected to take milliseconds, the next two as long as they did, the fourth a tenth of it.
    assert {bound: count for bound, count in counts.items() if count} == {0.1: 2, math.inf: 2}


def test_a_solver_of_someone_elses_need_not_count_its_products(rated: Rated) -> None:
    request = rated.request()
    model = load_model(rated.blobs, request.model.spec, memory_budget=10**8)
    cost = cost_of(request, model, 1, {"certificate": [{"status": "approximate", "iterations": 0}]}, {"rhs": 0.5})
    assert (cost.seen.products, cost.seen.seconds_per_product, cost.seen.seconds) == (0, None, 0.5)
    assert cost.seen.reached


def test_a_store_that_is_away_costs_no_job(tmp_path: Path) -> None:
    class Away(MemoryCostStore):
        lost = 0

        def record(self, observation: Observation, log_error: float | None) -> None:
            Away.lost += 1
            if Away.lost == 1:
                raise StoreUnavailable("gone")
            super().record(observation, log_error)

    rated = Rated(tmp_path, Away())
    request = rated.request()
    rated.run(request)
    assert rated.seen(request) == []
    rated.run(request)
    assert len(rated.seen(request)) == 1

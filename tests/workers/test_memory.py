"""A job that runs out of memory: one more try with less, then an error that says what would have fitted."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from ihvp.jobs.record import JobRecord
from ihvp.jobs.states import JobState
from ihvp.jobs.submission import JobRequest, ResolvedRhs
from ihvp.methods import InversionMethod
from ihvp.models.spec import ModelSpec
from solvers import Problem
from tests.workers.bench import Bench
from tests.workers.problems import Example, job_request, put_tensors, softmax_regression

ROOT = Path(__file__).parents[2]
FULL = 4 * 1024**3

Hungry = Callable[[int], JobRequest]


def memory(bench: Bench, job: JobRecord) -> dict[str, Any] | None:
    return bench.document(job).info.model_dump().get("memory")


def ones(bench: Bench, example: Example, spec: ModelSpec, **changes: Any) -> JobRequest:
    shape = [1, example.num_params]
    b = put_tensors(bench.blobs, b=torch.ones(*shape, dtype=torch.float64))
    return job_request(spec, example.num_params, ResolvedRhs(blob=b, shape=shape), **changes)


class TestOnce:
    @pytest.fixture
    def hungry(self, bench: Bench, tmp_path: Path, plugin_site: Path, monkeypatch: pytest.MonkeyPatch) -> Hungry:
        """Makes requests on a model that does not fit so many times."""
        monkeypatch.syspath_prepend(str(plugin_site))
        example = softmax_regression(100, 5, 3)

        def request(times: int) -> JobRequest:
            config = {"in_features": 5, "out_features": 3, "times": times, "tries": str(tmp_path / "tries")}
            spec = example.upload(bench.blobs, architecture={"type": "hungry", "config": config})
            return ones(bench, example, spec)

        return request

    def test_a_model_that_did_not_fit_is_loaded_again_with_less_to_plan_for(
        self, bench: Bench, hungry: Hungry
    ) -> None:
        job = bench.run(hungry(1))
        assert job.state is JobState.Succeeded, job.error
        assert job.attempt == 1
        assert memory(bench, job) == {
            "budget": FULL // 2,
            "instead_of": FULL,
            "workers_lost": 0,
            "out_of_memory": ["loading"],
        }
        # The next job may plan for all of it, on a model of its own.
        assert memory(bench, bench.run(hungry(1))) is None

    def test_and_only_once(self, bench: Bench, hungry: Hungry, tmp_path: Path) -> None:
        job = bench.run(hungry(9))
        assert job.error is not None
        assert job.error.code == "out_of_memory"
        assert "bytes are free" in str(job.error.allowed)
        assert f"a budget of {FULL} bytes, then {FULL // 2} tried" in str(job.error.allowed)
        assert (tmp_path / "tries").stat().st_size == 2

    def test_a_solve_that_did_not_fit_is_tried_again_with_less(
        self, bench: Bench, digits: Example, spec: ModelSpec, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        solve, budgets = Problem.solve, []

        def cramped(self: Problem, *args: Any, **options: Any) -> Any:
            budgets.append(self.memory_budget)
            if len(budgets) == 1:
                return torch.empty(2**60, dtype=torch.uint8)
            return solve(self, *args, **options)

        monkeypatch.setattr(Problem, "solve", cramped)
        job = bench.run(ones(bench, digits, spec))
        assert job.state is JobState.Succeeded, job.error
        assert budgets == [FULL, FULL // 2]
        told = memory(bench, job)
        assert told is not None
        assert told["out_of_memory"] == ["solving"]


class TestAfterADeath:
    def test_the_next_attempts_plan_for_half_and_a_quarter(
        self, bench: Bench, digits: Example, spec: ModelSpec
    ) -> None:
        job_id = bench.submit(ones(bench, digits, spec))
        for deaths in (1, 2):
            bench.store.claim("killed", 30.0)
            bench.store.reclaim_owner("killed", 3)
            assert bench.store.get(job_id).losses == deaths
        bench.executor.run_next()
        job = bench.store.get(job_id)
        assert job.state is JobState.Succeeded, job.error
        told = memory(bench, job)
        assert told is not None
        assert (told["budget"], told["workers_lost"]) == (FULL // 4, 2)

    def test_a_dense_hessian_that_fits_the_whole_budget_is_still_made(
        self, bench: Bench, digits: Example, spec: ModelSpec
    ) -> None:
        """What a method cannot do without is no choice of the planner's."""
        run = bench.executor
        settings = run._settings.model_copy(update={"memory_budget": 3 * 8 * digits.num_params**2 + 1_000_000})
        run._resources = replace(run._resources, settings=settings)
        job_id = bench.submit(ones(bench, digits, spec, method=InversionMethod.Direct))
        for _ in range(2):
            bench.store.claim("killed", 30.0)
            bench.store.reclaim_owner("killed", 3)
        run.run_next()
        assert bench.store.get(job_id).state is JobState.Succeeded, bench.store.get(job_id).error


LIMITED = """
import json, resource, sys
from pathlib import Path
import torch
from ihvp.blobs.filesystem import FilesystemBlobStore
from ihvp.jobs.memory_store import MemoryJobStore
from ihvp.jobs.submission import ResolvedRhs
from tests.workers.bench import Bench
from tests.workers.problems import job_request, put_tensors, softmax_regression

torch.set_num_threads(1)
folder = Path(sys.argv[1])
bench = Bench(MemoryJobStore(), FilesystemBlobStore(folder / "blobs"), folder)
example = softmax_regression(30, 500, 10)
spec, p = example.upload(bench.blobs), example.num_params
b = torch.randn(4, p, dtype=torch.float64)

def request(rows, **changes):
    blob = put_tensors(bench.blobs, b=b[:rows])
    rhs = ResolvedRhs(blob=blob, shape=[rows, p])
    return job_request(spec, p, rhs, hessian_perturbation=1.0, **changes)

# All that is imported late is imported before the limit.
warm = bench.run(request(1))
assert warm.state.value == "succeeded", warm.error
held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
limit = held + 150_000_000
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
first = bench.run(request(4, method="direct"))
second = bench.run(request(4))
print(json.dumps([first.error and first.error.model_dump(), second.state.value, str(second.error)]))
"""


def test_what_the_error_says_would_fit_fits(tmp_path: Path) -> None:
    """A process that may have 150 MB more; a dense Hessian of 5010 parameters has 200 MB."""
    ran = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    error, state, why = json.loads(ran.stdout.splitlines()[-1])
    assert error["code"] == "out_of_memory"
    assert "4 × 5010 numbers: at least" in error["given"]
    assert int(error["given"].split("at least ")[1].split()[0]) > 150_000_000
    assert int(error["allowed"].split()[0]) < 200_000_000
    assert error["hint"].startswith("Method 'cg' would fit, with up to 4 right-hand sides a job")
    assert state == "succeeded", why

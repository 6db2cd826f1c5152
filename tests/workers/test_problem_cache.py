"""Which models stay warm."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from ihvp.errors import InvalidInput
from ihvp.jobs.record import JobRecord
from ihvp.jobs.states import JobState
from ihvp.jobs.submission import JobRequest
from ihvp.methods import InversionMethod
from ihvp.settings import Settings
from solvers import Problem
from tests.workers.bench import Bench, points
from tests.workers.problems import Example, job_request
from workers.execution import Executor
from workers.problem_cache import ProblemCache
from workers.resolvers.model import LoadedModel


@dataclass
class Sized:
    nbytes: int


def use(cache: ProblemCache[Sized], name: str, nbytes: int = 40, seconds: float = 0.001) -> bool:
    """One job on a model of this size; whether it was warm."""

    def make() -> Sized:
        time.sleep(seconds)
        return Sized(nbytes)

    _, warm = cache.get(name, make)
    cache.settle(name)
    return warm


def test_models_within_the_budget_stay() -> None:
    cache = ProblemCache[Sized](100)
    assert [use(cache, name) for name in ("a", "b", "a", "b")] == [False, False, True, True]
    assert cache.nbytes == 80


def test_the_one_that_is_cheapest_to_make_again_makes_room() -> None:
    cache = ProblemCache[Sized](100)
    use(cache, "dear", seconds=0.05)
    use(cache, "cheap")
    use(cache, "new")
    assert "dear" in cache
    assert "cheap" not in cache


def test_the_one_that_is_used_most_stays() -> None:
    cache = ProblemCache[Sized](100)
    for _ in range(50):
        use(cache, "often")
    use(cache, "once")
    use(cache, "new")
    assert "often" in cache
    assert "once" not in cache


def test_what_was_useful_long_ago_goes_in_the_end() -> None:
    cache = ProblemCache[Sized](100)
    for _ in range(3):
        use(cache, "old")
    for number in range(100):
        use(cache, f"new {number}")
    assert "old" not in cache


def test_a_model_that_grew_makes_room_for_itself() -> None:
    cache = ProblemCache[Sized](100)
    use(cache, "a")
    problem, _ = cache.get("b", lambda: Sized(40))
    assert len(cache) == 2
    problem.nbytes = 90
    cache.settle("b")
    assert "a" not in cache
    assert cache.nbytes == 90


def test_the_last_one_stays_even_beyond_the_budget_until_another_comes() -> None:
    cache = ProblemCache[Sized](100)
    use(cache, "huge", nbytes=1000)
    assert use(cache, "huge", nbytes=1000)
    held: list[int] = []

    def make() -> Sized:
        held.append(len(cache))
        return Sized(10)

    cache.get("small", make)
    assert held == [0], "it makes room before another is loaded, not after"


class TestOfAWorker:
    """Problems of real models, which grow with what their solves keep."""

    METHODS = (InversionMethod.Cg, InversionMethod.Nystrom, InversionMethod.Direct)

    def worker(self, bench: Bench, folder: Path, cache_bytes: int) -> ProblemCache[LoadedModel]:
        """Gives the bench a worker with this budget; returns its cache."""
        settings = Settings(data_dir=folder, cache_bytes=cache_bytes)
        bench.executor = Executor(settings, bench.store, bench.blobs, "host/test", lambda: False)
        return bench.executor._resources.models

    def request(self, bench: Bench, digits: Example, batch_size: int, method: InversionMethod) -> JobRequest:
        """A job on a model of its own for each batch size."""
        data = digits.upload(bench.blobs).data.model_dump()
        spec = digits.upload(bench.blobs, data={**data, "batch_size": batch_size})
        return job_request(spec, digits.num_params, points(bench, digits, 4), method=method)

    def held(self, cache: ProblemCache[LoadedModel]) -> int:
        """What the problems hold in truth, read part by part."""
        total = 0
        for kept in cache._kept.values():
            problem = kept.problem.problem
            parts = [problem.data.nbytes, problem.factors.nbytes, 2 * problem.num_params * problem.dtype.itemsize]
            for relative in problem._relatives.values():
                parts += [relative._graph_bytes, relative.recycled.nbytes]
            total += sum(parts)
        return total

    def test_linearisations_factors_and_recycled_directions_are_counted(
        self, bench: Bench, digits: Example, tmp_path: Path
    ) -> None:
        cache = self.worker(bench, tmp_path, 2**30)
        sizes = [0]
        for method in self.METHODS:
            assert bench.run(self.request(bench, digits, 100, method)).state is JobState.Succeeded
            assert cache.nbytes == self.held(cache)
            sizes.append(cache.nbytes)
        (kept,) = cache._kept.values()
        problem = kept.problem.problem
        assert problem.factors.nbytes > 0
        assert problem.recycled.nbytes > 0
        assert problem._graph_bytes > 0
        assert sizes == sorted(set(sizes)), "each of these methods keeps something more"

    def test_many_models_stay_within_the_budget(self, bench: Bench, digits: Example, tmp_path: Path) -> None:
        cache = self.worker(bench, tmp_path / "measured", 2**30)
        for method in self.METHODS:
            bench.run(self.request(bench, digits, 100, method))
        budget = cache.nbytes * 5 // 2
        cache = self.worker(bench, tmp_path, budget)
        most = 0
        for batch_size in range(50, 90, 5):
            for method in self.METHODS:
                assert bench.run(self.request(bench, digits, batch_size, method)).state is JobState.Succeeded
                assert cache.nbytes == self.held(cache) <= budget
                most = max(most, len(cache))
        assert most >= 2, "a budget that holds several keeps several"
        assert len(cache) < 8

    def test_what_a_failed_solve_has_kept_is_counted_too(
        self, bench: Bench, digits: Example, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        cache = self.worker(bench, tmp_path, 2**30)
        solve = Problem.solve

        def refused(*args: object, **options: object) -> None:
            solve(*args, **options)  # type: ignore[arg-type]
            raise InvalidInput("It cannot be solved.")

        monkeypatch.setattr(Problem, "solve", refused)
        job: JobRecord = bench.run(self.request(bench, digits, 100, InversionMethod.Cg))
        assert job.state is JobState.Failed
        (kept,) = cache._kept.values()
        assert kept.problem.problem._graph_bytes > 0
        assert cache.nbytes == self.held(cache)

"""What a worker counts of its work, and how it reaches the store once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from ihvp.jobs.memory_store import MemoryJobStore
from ihvp.models.spec import ModelSpec
from tests.workers.bench import Bench, points
from tests.workers.problems import Example, job_request
from workers.tally import Tally


def test_products_and_warm_models_are_counted(bench: Bench, spec: ModelSpec, digits: Example) -> None:
    for count in (1, 2):
        job = bench.run(job_request(spec, digits.num_params, points(bench, digits, count)))
        assert job.result is not None, job.error
    done = bench.document(job).info
    counts = bench.executor.tally.sign().counts
    assert counts["model_cache_requests|miss"] == 1
    assert counts["model_cache_requests|hit"] == 1
    assert sum(by for name, by in counts.items() if name.startswith("model_load_seconds|") and "sum" not in name) == 1
    assert done.model_extra is not None
    hvps = done.model_extra["hvps"]
    assert counts["hvps|cg"] > hvps > 0  # those of the other job too
    # The results themselves are counted with the writes that make them visible.
    assert bench.store.measure().counts["right_hand_sides|cg|converged"] == 3


def test_a_sign_that_may_not_have_arrived_is_told_again_under_its_mark() -> None:
    store, tally = MemoryJobStore(), Tally()
    tally.add("hvps", "cg", by=2.5)
    first = tally.sign()
    store.worker_alive("w", first)  # the answer is lost: ``told`` is not called
    tally.add("hvps", "cg", by=1.0)
    again = tally.sign()
    assert (again.mark, again.counts) == (first.mark, first.counts)
    store.worker_alive("w", again)
    tally.told()
    store.worker_alive("w", tally.sign())
    assert store.measure().counts == {"hvps|cg": 3.5}


def test_threads_may_count_while_a_sign_is_given() -> None:
    store, tally = MemoryJobStore(), Tally()

    def count(_: int) -> None:
        for _ in range(500):
            tally.add("hvps", "cg")

    with ThreadPoolExecutor(4) as pool:
        under_way = [pool.submit(count, number) for number in range(4)]
        while not all(each.done() for each in under_way):
            store.worker_alive("w", tally.sign())
            tally.told()
    store.worker_alive("w", tally.sign())
    assert store.measure().counts == {"hvps|cg": 2000}


def test_it_says_what_the_process_holds(bench: Bench, spec: ModelSpec, digits: Example) -> None:
    bench.run(job_request(spec, digits.num_params, points(bench, digits, 1)))
    gauges = bench.executor.tally.sign().gauges
    assert gauges["kept_models"] == 1
    assert gauges["kept_bytes"] > 0
    assert gauges["resident_bytes"] == pytest.approx(2**29, rel=3)

"""What ``ihvp.costs.store`` promises, over every adapter."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest

from ihvp.costs.memory_store import MemoryCostStore
from ihvp.costs.observation import ERROR_BOUNDS, error_bucket
from ihvp.costs.redis_store import AsyncRedisCostStore, RedisCostStore
from ihvp.costs.store import KEPT_HERE, KEPT_MODELS, KEPT_RECENT, CostStore
from ihvp.keyvalue.calls import Call
from ihvp.keyvalue.connection import Executor
from ihvp.methods import Curvature, InversionMethod
from ihvp.settings import Settings
from tests.costs.samples import ELSEWHERE, HERE, observation
from tests.store.awaited import ADAPTERS, adapter


@pytest.fixture(params=ADAPTERS)
def costs(request: pytest.FixtureRequest) -> Iterator[CostStore]:
    yield from adapter(request, MemoryCostStore, RedisCostStore, AsyncRedisCostStore)


def test_a_models_own_observations_and_those_of_all(costs: CostStore) -> None:
    first, second = observation(iterations=1), observation("minres", iterations=2, kept_bytes=10, rank=3)
    other = observation(model=ELSEWHERE)
    ggn = observation(curvature=Curvature.Ggn, damping=None, seconds_per_product=None)
    for seen in (first, second, other, ggn):
        costs.record(seen, None)
    found = costs.known(HERE, Curvature.Hessian)
    assert list(found.here) == [second, first]
    assert list(found.recent) == [ggn, other, second, first]
    assert list(costs.known(HERE, Curvature.Ggn).here) == [ggn]
    nothing = costs.known("sha256:" + "0" * 64, Curvature.Hessian)
    assert (list(nothing.here), len(nothing.recent)) == ([], 4)


def test_errors_are_counted_by_method_and_size(costs: CostStore) -> None:
    assert costs.errors() == {}
    for method, error in (("cg", 0.0), ("cg", 0.05), ("cg", -0.3), ("cg", 99.0), ("direct", -99.0), ("direct", None)):
        costs.record(observation(method), error)
    found = costs.errors()
    assert set(found) == {InversionMethod.Cg, InversionMethod.Direct}
    counts = dict(zip(ERROR_BOUNDS, found[InversionMethod.Cg], strict=True))
    assert {bound: count for bound, count in counts.items() if count} == {0.1: 2, -0.25: 1, math.inf: 1}
    assert found[InversionMethod.Direct][0] == 1
    assert sum(found[InversionMethod.Direct]) == 1


def test_everything_is_bounded(costs: CostStore) -> None:
    for number in range(KEPT_RECENT + 2):
        costs.record(observation(iterations=number), None)
    found = costs.known(HERE, Curvature.Hessian)
    assert [o.iterations for o in found.here] == [KEPT_RECENT + 1 - i for i in range(KEPT_HERE)]
    assert len(found.recent) == KEPT_RECENT
    for number in range(KEPT_MODELS):
        costs.record(observation(model=f"sha256:{number:064d}"), None)
    assert not costs.known(HERE, Curvature.Hessian).here
    assert costs.known(f"sha256:{0:064d}", Curvature.Hessian).here


def test_buckets_cover_all_numbers() -> None:
    assert error_bucket(-math.inf) == 0
    assert error_bucket(math.inf) == len(ERROR_BOUNDS) - 1
    assert list(ERROR_BOUNDS) == sorted(ERROR_BOUNDS)


def test_what_another_version_wrote_is_skipped(valkey: Settings) -> None:
    executor = Executor(valkey, "ihvp.costs")
    key = f"{HERE}:hessian"
    executor.run(Call("record", (key, '{"seconds": 3}', "magic:2", 10, 10, 10), str))
    store = RedisCostStore(executor)
    store.record(observation(), 0.0)
    found = store.known(HERE, Curvature.Hessian)
    assert list(found.here) == list(found.recent) == [observation()]
    assert set(store.errors()) == {InversionMethod.Cg}
    store.close()

"""Predictions: right where something like it was measured, sensible where not, and honest about which it is."""

from __future__ import annotations

import math

import pytest

from ihvp.costs.model import work_of
from ihvp.costs.observation import Known
from ihvp.costs.prediction import PRODUCT_FLOOR_S, Basis, predict
from ihvp.methods import Curvature, InversionMethod, dense_hessian_bytes
from tests.costs.samples import ELSEWHERE, known, observation, task, workload

METHODS = [method.value for method in InversionMethod]


@pytest.mark.parametrize("method", METHODS)
def test_a_job_like_the_last_one_is_predicted_to_take_as_long(method: str) -> None:
    asked = task(method)
    products = {"cg": 84.0, "minres": 84.0, "auto": 124.0, "lissa": 30.0}.get(method, 300.0)
    seen = observation(method, products=products, seconds=0.2 + products * 1e-3, rtol=asked.rtol, rank=asked.rank)
    found = predict(workload(), asked, known(seen))
    assert found.basis is Basis.ThisModel
    assert found.seconds == pytest.approx(seen.seconds, rel=0.1)
    assert found.products == pytest.approx(products, rel=0.1)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_is_predicted_when_nothing_is_known(method: str) -> None:
    found = predict(workload(), task(method), Known())
    assert found.basis is Basis.Default
    assert 0 < found.seconds < 3600
    assert 0 < found.certain_bytes <= found.bytes
    assert found.products > 0


def test_products_of_another_model_are_scaled_by_p_and_n() -> None:
    rate, floor = 3e-10, PRODUCT_FLOOR_S

    def seen(p: int, n: int, dtype: str = "float32") -> object:
        width = 2 if dtype == "float64" else 1
        return observation(
            model=ELSEWHERE, num_params=p, num_points=n, dtype=dtype, seconds_per_product=floor + rate * p * n * width
        )

    others = tuple(seen(*size) for size in ((2_000, 1_000), (50_000, 2_000), (10_000, 5_000, "float64")))
    for dtype, width in (("float32", 1), ("float64", 2)):
        wanted = workload(p=200_000, n=4_000, dtype=dtype)
        found = predict(wanted, task("direct"), known(recent=others))  # type: ignore[arg-type]
        seconds = (200_000 + 4) * (floor + rate * 200_000 * 4_000 * width)
        factorisation = work_of(wanted, task("direct")).flops / 5e9
        assert found.basis is Basis.OtherModels
        assert found.seconds - factorisation == pytest.approx(seconds, rel=0.01)


def test_a_product_that_is_all_overhead_tells_nothing_of_larger_models() -> None:
    tiny = observation(model=ELSEWHERE, num_params=4, num_points=10, seconds_per_product=PRODUCT_FLOOR_S)
    wanted = workload(p=100_000)
    found = predict(wanted, task("direct"), known(recent=(tiny,)))
    assert found == predict(wanted, task("direct"), Known())


def test_the_seconds_of_a_product_are_those_of_blocks_of_its_size() -> None:
    alone = [observation(columns=1, seconds_per_product=3e-3) for _ in range(4)]
    block = observation(columns=64, seconds_per_product=0.5e-3, products=64 * 21.0)
    few, many = (predict(workload(k=k), task(), known(*alone, block)) for k in (1, 64))
    assert few.seconds / few.products > 3 * many.seconds / many.products


def test_models_of_the_same_architecture_tell_more() -> None:
    network = observation(model=ELSEWHERE, seconds_per_product=2e-3)
    convolution = observation(model=ELSEWHERE, architecture="cnn", seconds_per_product=50e-3)
    plain = predict(workload(), task(), known(recent=(network,)))
    both = predict(workload(architecture="cnn"), task(), known(recent=(network, network, convolution)))
    assert both.seconds > 20 * plain.seconds


def test_iterations_follow_lambda_tolerance_and_the_size_of_the_block() -> None:
    seen = known(observation())

    def iterations(**changes: object) -> float:
        options = {"rtol": changes.pop("rtol")} if "rtol" in changes else {}
        asked = workload(**changes)  # type: ignore[arg-type]
        return predict(asked, task("cg", **options), seen).products / asked.columns - 1

    assert iterations() == pytest.approx(20, rel=0.05)
    assert 20 * 100**0.3 < iterations(damping=0.001) < 20 * 100**0.5
    assert 1 <= iterations(damping=10.0) < 20 / 100**0.3
    assert iterations(rtol=1e-10) == pytest.approx(20 * math.log(2e10) / math.log(2e5), rel=0.05)
    assert 20 < iterations(k=1) < 40
    assert 10 < iterations(k=16) < 20
    assert iterations(damping=0.0) <= 10 * 1000
    assert iterations(damping=None) == pytest.approx(20, rel=0.05)


def test_the_observation_nearest_in_lambda_counts_and_one_odd_run_does_not() -> None:
    far = [observation(damping=1e-6, iterations=900) for _ in range(10)]
    near = [observation(iterations=20) for _ in range(4)]
    odd = observation(seconds_per_product=9.0, iterations=400)
    found = predict(workload(), task(), known(odd, *near, *far))
    assert found.products == pytest.approx(84, rel=0.1)
    assert found.seconds < 1


def test_iterations_that_were_cut_short_or_of_another_curvature_do_not_count() -> None:
    cut = observation(iterations=1, reached=False)
    assert predict(workload(), task(), known(cut)).basis is Basis.Default
    seen = observation(curvature=Curvature.Ggn, iterations=3, seconds_per_product=2e-3)
    assert predict(workload(), task(), Known((), (seen,))).basis is Basis.Default
    assert predict(workload(curvature=Curvature.Ggn), task(), Known((), (seen,))).basis is Basis.OtherModels


def test_minres_learns_from_cg_and_a_preconditioner_from_its_own_kind_only() -> None:
    seen = known(observation())
    assert predict(workload(), task("minres"), seen).basis is Basis.ThisModel
    guess = predict(workload(), task("cg", preconditioner="kfac"), seen)
    assert guess.basis is Basis.Default
    assert guess.products < predict(workload(), task("cg"), seen).products
    own = known(observation(preconditioner="nystrom", iterations=7, products=32.0))
    found = predict(workload(), task("cg", preconditioner="nystrom"), own)
    assert (found.basis, found.products) == (Basis.ThisModel, 32)


def test_what_workers_keep_is_not_paid_again() -> None:
    cold = observation("direct", products=1004.0, seconds=1.5)
    warm = observation("direct", products=4.0, seconds=0.02)
    first = predict(workload(), task("direct"), known(observation()))
    again = predict(workload(), task("direct"), known(warm, warm, cold))
    assert first.products == 1004
    assert again.products == 4
    assert again.seconds < first.seconds / 10


def test_memory_of_each_method() -> None:
    w = workload(p=5_000, k=8)
    vector = 5_000 * 4
    found = {method: predict(w, task(method), Known()) for method in METHODS}
    assert found["direct"].certain_bytes == dense_hessian_bytes(5_000, "float32")
    assert found["cg"].certain_bytes == 5 * 8 * vector
    assert found["minres"].certain_bytes == 8 * 8 * vector
    # A sketch is cut to the budget: only the vectors are certain.
    assert found["nystrom"].certain_bytes == 2 * 8 * vector
    assert found["nystrom"].bytes == 2 * 200 * vector + 3 * 8 * vector
    assert predict(w, task("nystrom", rank=50), Known()).bytes == 2 * 50 * vector + 3 * 8 * vector
    assert found["arnoldi"].certain_bytes == 21 * vector + 2 * 8 * vector
    sketched = predict(w, task("cg", preconditioner="nystrom", preconditioner_rank=100), Known())
    assert sketched.certain_bytes == found["cg"].certain_bytes
    assert sketched.bytes > found["cg"].bytes + 100 * vector
    assert found["kfac"].bytes > 2 * 4 * (10**2 + 501**2)
    wide = predict(workload(p=5_000, k=8, dtype="float64"), task("cg"), Known())
    assert wide.bytes == 2 * found["cg"].bytes


def test_lissa_counts_the_share_of_the_points_that_a_term_looks_at() -> None:
    found = predict(workload(k=1), task("lissa", maxiter=1000, scale=10.0, repeats=2), Known())
    assert found.products == 1000 * 2 * 100 // 500 + 1


def test_influence_costs_a_pass_for_each_solution() -> None:
    seen = known(observation())
    plain = predict(workload(), task(), seen)
    scored = predict(workload(influence=True), task(), seen)
    assert scored.products == plain.products
    assert scored.seconds == pytest.approx(plain.seconds + 4e-3)

"""Laws that hold for any problem, tried on random ones."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from solvers import Problem, solve_hvp
from tests.solvers.cases import Case, batches_of, small_mlp

F64 = torch.float64
TIGHT = {
    "cg": {"rtol": 1e-11, "atol": 0.0},
    "minres": {"rtol": 1e-11},
    "direct": {},
    "arnoldi": {"rank_estimate": 51, "tol": 0.0},
}
few = settings(deadline=None, max_examples=8)
seeds = st.integers(0, 2**31)
methods = st.sampled_from(sorted(TIGHT))


@pytest.fixture(scope="module")
def case() -> Case:
    return small_mlp(F64)


def solve(case: Case, method: str, b: Tensor, size: int = 64, damping: float | None = None) -> Tensor:
    damping = case.damping if damping is None else damping
    x, info = solve_hvp(method, case.model, case.batches(size), b, hessian_perturbation=damping, **TIGHT[method])
    assert {c["status"] for c in info["certificate"]} == {"converged"}
    return x


def close(a: Tensor, b: Tensor) -> None:
    assert float((a - b).norm()) <= 1e-8 * float(b.norm())


@few
@given(method=methods, seed=seeds, s=st.floats(-1e3, 1e3), t=st.floats(-1e3, 1e3))
def test_linear_in_b(case: Case, method: str, seed: int, s: float, t: float) -> None:
    b = case.rhs(2, seed)
    combined = s * b[0] + t * b[1]
    separate = solve(case, method, b)
    together = solve(case, method, combined)
    scale = abs(s) * separate[0].norm() + abs(t) * separate[1].norm()
    assert float((together - (s * separate[0] + t * separate[1])).norm()) <= 1e-8 * float(scale)


@few
@given(method=methods, seed=seeds, size=st.integers(1, 40))
def test_batch_size_does_not_matter(case: Case, method: str, seed: int, size: int) -> None:
    b = case.rhs(2, seed)
    close(solve(case, method, b, size), case.exact(b))


@few
@given(method=methods, seed=seeds, size=st.integers(1, 40))
def test_order_of_the_data_does_not_matter(case: Case, method: str, seed: int, size: int) -> None:
    b = case.rhs(1, seed)
    order = torch.randperm(len(case.x), generator=torch.Generator().manual_seed(seed))
    data = batches_of(case.x[order], case.y[order], size)
    x, _ = solve_hvp(method, case.model, data, b, hessian_perturbation=case.damping, **TIGHT[method])
    close(x, case.exact(b))


@few
@given(method=methods, seed=seeds)
def test_a_large_damping_gives_b_over_it(case: Case, method: str, seed: int) -> None:
    b = case.rhs(2, seed)
    for damping in (1e4, 1e8):
        x = solve(case, method, b, damping=damping)
        bound = 10 * float(case.H.norm()) / damping
        assert float((damping * x - b).norm() / b.norm()) <= bound


@few
@given(method=methods, order=st.permutations(range(5)))
def test_permuting_right_hand_sides_permutes_x(case: Case, method: str, order: list[int]) -> None:
    b = case.rhs(5)
    close(solve(case, method, b[order]), case.exact(b)[order])


@few
@given(seed=seeds, size=st.integers(1, 40), weight=st.floats(0.01, 100))
def test_the_operator_is_symmetric_and_scales(case: Case, seed: int, size: int, weight: float) -> None:
    H = Problem(case.model, case.batches(size)).hessian(1, 2)
    u, v = case.rhs(2, seed)
    Hu, Hv = H(torch.stack([u, weight * v]))
    assert float(v @ Hu) == pytest.approx(float(u @ Hv) / weight, rel=1e-9, abs=1e-10)
    close(Hu, u @ case.H)

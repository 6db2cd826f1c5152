"""LiSSA with a scale of its own, repeated, and resumed."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from solvers import Problem, solve_hvp
from tests.solvers.cases import CASES, least_squares, logistic, small_mlp
from tests.solvers.keeper import Keeper

F32, F64 = torch.float32, torch.float64


@pytest.mark.parametrize("name", list(CASES))
@pytest.mark.parametrize("dtype", [F32, F64], ids=["float32", "float64"])
def test_a_scale_is_found_for_which_the_series_converges(name: str, dtype: torch.dtype) -> None:
    case = CASES[name](dtype)
    b = case.rhs(2)
    everything = len(case.x)
    x, info = solve_hvp(
        "lissa",
        case.model,
        case.batches(everything),
        b,
        hessian_perturbation=case.damping,
        scale=None,
        rtol=1e-6,
        maxiter=5000,
    )
    largest = float(torch.linalg.eigvalsh(case.H)[-1]) + case.damping
    assert largest < info["scale"] <= 1.3 * largest
    assert max(case.residual(x, b)) <= 1e-3


def test_a_bound_that_was_too_small_is_doubled_until_nothing_diverges(monkeypatch: pytest.MonkeyPatch) -> None:
    from solvers.methods import lissa

    case = least_squares(F64)
    monkeypatch.setattr(lissa, "safe_scale", lambda system, start: 0.2)
    b = case.rhs(2)
    x, info = solve_hvp(
        "lissa",
        case.model,
        case.batches(100),
        b,
        hessian_perturbation=case.damping,
        scale=None,
        maxiter=3000,
        rtol=1e-7,
    )
    assert info["scale"] > float(torch.linalg.eigvalsh(case.H)[-1]) / 2
    assert info["scale"] in [0.2 * 2**n for n in range(10)]
    assert max(case.residual(x, b)) <= 1e-4


def test_repeats_are_averaged_and_their_spread_is_told() -> None:
    case = logistic(F64)
    b = case.rhs(3)
    solve: dict[str, Any] = {"hessian_perturbation": 0.3, "scale": 4.0, "maxiter": 60, "rtol": 1e-12}
    single = [solve_hvp("lissa", case.model, case.batches(5), b, seed=seed, **solve) for seed in (7, 8, 9, 10)]
    x, info = solve_hvp("lissa", case.model, case.batches(5), b, seed=7, repeats=4, **solve)
    series = torch.stack([result.x for result in single])
    torch.testing.assert_close(x, series.mean(dim=0), rtol=1e-9, atol=1e-12)
    deviation = ((series - x).square().sum(dim=2).sum(dim=0) / 3).sqrt() / x.norm(dim=1)
    assert info["repeat_std"] == pytest.approx(deviation.tolist(), rel=1e-6)
    assert single[0].info["repeat_std"] == [None] * 3
    assert max(case.residual(x, b, 0.3)) < max(max(case.residual(r.x, b, 0.3)) for r in single)


@pytest.mark.parametrize("at", [4, 27], ids=["in the first series", "in the second"])
def test_a_resumed_series_ends_in_the_same_bits(at: int) -> None:
    case = small_mlp(F32)

    def solve(keeper: Keeper) -> Any:
        problem = Problem(case.model, case.batches(8), strategy="graph")
        options = {"scale": None, "maxiter": 20, "repeats": 2, "checkpoints": keeper}
        return problem.solve("lissa", case.rhs(2), hessian_perturbation=case.damping, **options)

    first = Keeper(at=at)
    straight = solve(first)
    assert first.saved is not None
    again = solve(Keeper(resume=first.saved))
    assert torch.equal(again.x, straight.x)
    assert again.info["certificate"] == straight.info["certificate"]
    assert again.info["scale"] == straight.info["scale"]
    assert again.info["repeat_std"] == pytest.approx(straight.info["repeat_std"])

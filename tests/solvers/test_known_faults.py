"""The faults of existing implementations that the solver contract lists, one test a row."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ihvp.errors import LossMismatch, UnknownOption
from solvers import IterationReport, Problem, TorchTwiceDifferentiable, solve_hvp
from tests.solvers.cases import Case, batches_of, dense_hessian, least_squares, logistic, small_mlp

F64 = torch.float64


def test_right_hand_sides_are_solved_together() -> None:
    case = logistic(F64)
    reports: list[IterationReport] = []
    result = solve_hvp(
        "cg",
        case.model,
        case.batches(10),
        case.rhs(8),
        hessian_perturbation=case.damping,
        callback=reports.append,
    )
    # One iteration moves all of them: there are as many as the slowest needs, not the sum.
    assert len(reports) == max(result.info["niter"]) < sum(result.info["niter"])
    assert all(len(r.relative_residual) == 8 for r in reports)


def test_memory_of_cg_is_bounded_by_a_chunk() -> None:
    case = small_mlp(F64, n=400)
    problem = Problem(case.model, case.batches(50), memory_budget=20_000)
    b = case.rhs(2)
    x, info = problem.solve("cg", b, hessian_perturbation=case.damping)
    assert info["strategy"]["product"] == "recomputed"
    assert info["strategy"]["chunk_points"] < 50
    assert max(case.residual(x, b)) < 1e-6


@pytest.mark.parametrize("size", [1, 3, 10, 11, 64])
def test_ragged_batches_weigh_by_their_points(size: int) -> None:
    model = nn.Linear(3, 1, bias=False, dtype=F64)
    x = torch.randn(11, 3, dtype=F64, generator=torch.Generator().manual_seed(0))
    x[10] *= 30  # alone in the last batch of 10: an unweighted mean over batches is far off
    y = torch.zeros(11, 1, dtype=F64)
    problem = Problem(TorchTwiceDifferentiable(model, nn.MSELoss()), batches_of(x, y, size))
    V = torch.eye(3, dtype=F64)
    torch.testing.assert_close(problem.hessian(1, 3)(V), 2 * x.T @ x / 11, rtol=1e-12, atol=0)


@pytest.mark.parametrize(("method", "option"), [("cg", "x0"), ("minres", "x0"), ("lissa", "h0")])
def test_inputs_never_change(method: str, option: str) -> None:
    case = logistic(F64)
    b, start = case.rhs(2), case.rhs(2, seed=5)
    parameters = [p.clone() for p in case.model.parameters]
    before = b.clone(), start.clone()
    solve_hvp(method, case.model, case.batches(9), b, hessian_perturbation=case.damping, **{option: start})
    assert torch.equal(b, before[0])
    assert torch.equal(start, before[1])
    assert all(torch.equal(p, q) for p, q in zip(parameters, case.model.parameters, strict=True))
    assert all(p.grad is None for p in case.model.model.parameters())


@pytest.mark.parametrize("method", ["direct", "cg", "minres", "lissa", "arnoldi", "nystrom"])
@pytest.mark.parametrize("loss", [nn.MSELoss(), nn.BCEWithLogitsLoss(), F.mse_loss, nn.L1Loss()])
def test_targets_that_would_broadcast_are_refused(method: str, loss: nn.Module) -> None:
    model = TorchTwiceDifferentiable(nn.Linear(3, 1, bias=False), loss)
    data = [(torch.randn(5, 3), torch.rand(5))]
    with pytest.raises(LossMismatch, match=r"outputs \[5, 1\], targets \[5\].*reshape\(\[5, 1\]\)"):
        solve_hvp(method, model, data, torch.ones(3), hessian_perturbation=1.0)


def test_an_own_loss_that_broadcasts_is_refused_too() -> None:
    model = TorchTwiceDifferentiable(nn.Linear(3, 1), lambda o, t: (o - t).square().mean())
    with pytest.raises(LossMismatch, match=r"neither the mean nor the sum.*reshape the targets"):
        Problem(model, [(torch.randn(5, 3), torch.rand(5))])


def test_dampen_of_lissa_solves_another_system_and_says_so() -> None:
    case = least_squares(F64)
    b = case.rhs(1)
    x, info = solve_hvp(
        "lissa",
        case.model,
        case.batches(len(case.x)),
        b,
        hessian_perturbation=case.damping,
        dampen=0.05,
        scale=4.0,
        rtol=1e-10,
        maxiter=3000,
    )
    assert info["effective_damping"] == pytest.approx(case.damping + 0.2)
    other = case.exact(b, info["effective_damping"])
    torch.testing.assert_close(x, other, rtol=1e-7, atol=1e-9)
    (entry,) = info["certificate"]
    # The certificate is about the λ that was asked for.
    assert entry["relative_residual"] == pytest.approx(case.residual(x, b)[0], rel=1e-6)
    assert entry["status"] == "approximate"
    assert "set dampen=0" in entry["advice"]


def test_an_unfinished_lissa_says_so() -> None:
    case = least_squares(F64)
    b = case.rhs(2)
    x, info = solve_hvp("lissa", case.model, case.batches(8), b, hessian_perturbation=0.01, scale=30.0, maxiter=40)
    assert max(case.residual(x, b, 0.01)) > 0.2
    assert {c["status"] for c in info["certificate"]} == {"max_iterations"}
    assert "Raise maxiter" in info["certificate"][0]["advice"]


def test_what_arnoldi_drops_shows_and_woodbury_keeps_it() -> None:
    case = low_rank_case()
    b = case.rhs(2)
    solve = {"hessian_perturbation": case.damping, "rank_estimate": 2, "tol": 1e-10}
    dropped = solve_hvp("arnoldi", case.model, case.batches(7), b, **solve)
    kept = solve_hvp("arnoldi", case.model, case.batches(7), b, woodbury=True, **solve)
    for entry, true in zip(dropped.info["certificate"], case.residual(dropped.x, b), strict=True):
        assert true > 0.5
        assert entry["relative_residual"] == pytest.approx(true, rel=1e-9)
        assert entry["status"] == "approximate"
        assert "woodbury" in entry["advice"]
    # H has rank 2, so the complement is solved by b/λ exactly.
    torch.testing.assert_close(kept.x, case.exact(b), rtol=1e-8, atol=1e-10)
    assert {c["status"] for c in kept.info["certificate"]} == {"converged"}


def low_rank_case() -> Case:
    """Least squares with inputs in a plane: H has rank 2."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(20, 2, generator=generator, dtype=F64) @ torch.randn(2, 8, generator=generator, dtype=F64)
    y = torch.randn(20, 1, generator=generator, dtype=F64)
    model = TorchTwiceDifferentiable(nn.Linear(8, 1, bias=False, dtype=F64), nn.MSELoss())
    return Case("plane", model, x, y, 2 * x.T @ x / 20, 0.1)


def test_float32_and_float64_hold_what_they_can() -> None:
    for dtype, floor in ((torch.float32, 1e-5), (F64, 1e-10)):
        case = small_mlp(dtype)
        b = case.rhs(2)
        x, info = solve_hvp("direct", case.model, case.batches(10), b, hessian_perturbation=case.damping)
        assert x.dtype == dtype
        assert max(case.residual(x, b)) < floor
        assert {c["status"] for c in info["certificate"]} == {"converged"}


def test_each_right_hand_side_stops_on_its_own_residual() -> None:
    case = small_mlp(F64)
    vectors = torch.linalg.eigh(case.H).eigenvectors
    # An eigenvector is solved in one step; a million times larger or smaller changes nothing.
    b = torch.stack([vectors[:, -1], 1e6 * case.rhs(1)[0], 1e-6 * case.rhs(1, seed=2)[0]])
    x, info = solve_hvp("cg", case.model, case.batches(10), b, hessian_perturbation=case.damping, rtol=1e-9, atol=0.0)
    assert info["niter"][0] <= 2 < info["niter"][1]
    assert max(case.residual(x, b)) < 1e-9
    assert info["optimal"] == [True, True, True]


def test_a_vector_that_cannot_be_solved_harms_no_other() -> None:
    case = small_mlp(F64)
    values, vectors = torch.linalg.eigh(case.H)
    damping = 0.5 * (float(-values[0]) + float(-values[1]))  # only the lowest eigenvalue stays negative
    b = torch.stack([vectors[:, 0], vectors[:, 5:9].sum(dim=1)])
    x, info = solve_hvp("cg", case.model, case.batches(10), b, hessian_perturbation=damping, rtol=1e-8, atol=0.0)
    assert [c["status"] for c in info["certificate"]] == ["negative_curvature", "converged"]
    assert case.residual(x, b, damping)[1] < 1e-8


@pytest.mark.parametrize("method", ["direct", "cg", "lissa", "arnoldi"])
def test_an_indefinite_hessian_is_reported_with_a_damping_that_cures_it(method: str) -> None:
    case = small_mlp(F64)
    smallest = float(torch.linalg.eigvalsh(case.H)[0])
    assert smallest < 0
    b = case.rhs(2)
    options = {"lissa": {"scale": 4.0, "maxiter": 5000}, "arnoldi": {"rank_estimate": case.p}}.get(method, {})
    damping = 1e-3
    _, info = solve_hvp(method, case.model, case.batches(len(case.x)), b, hessian_perturbation=damping, **options)
    for entry in info["certificate"]:
        assert entry["rayleigh_quotient"] < 0
        assert entry["rayleigh_quotient"] >= (smallest + damping) * (1 + 1e-9)
        assert entry["suggested_perturbation"] > -smallest
        if method in ("cg", "lissa"):
            assert entry["status"] == "negative_curvature"
            assert "hessian_perturbation=" in entry["advice"]
            assert "minres" in entry["advice"]
            assert "GGN" in entry["advice"]
    if method == "direct":
        assert info["inertia"]["negative"] == int((torch.linalg.eigvalsh(case.H) < -damping).sum())
    cured = info["certificate"][0]["suggested_perturbation"]
    again = solve_hvp("cg", case.model, case.batches(10), b, hessian_perturbation=cured, atol=0.0)
    assert {c["status"] for c in again.info["certificate"]} == {"converged"}


@pytest.mark.parametrize("method", ["direct", "cg", "minres", "lissa", "arnoldi", "nystrom"])
def test_an_unknown_option_is_an_error(method: str) -> None:
    case = logistic(F64)
    with pytest.raises(UnknownOption, match="has no option 'warm_start'"):
        solve_hvp(method, case.model, case.batches(9), case.rhs(1), hessian_perturbation=1.0, warm_start=True)


def test_an_option_that_could_not_act_is_an_error() -> None:
    from ihvp.errors import InvalidOption

    case = logistic(F64)
    _, info = solve_hvp("arnoldi", case.model, case.batches(9), case.rhs(1), hessian_perturbation=1.0, rank_estimate=3)
    with pytest.raises(InvalidOption, match="nothing is computed that these options could act on"):
        solve_hvp(
            "arnoldi",
            case.model,
            case.batches(9),
            case.rhs(1),
            hessian_perturbation=1.0,
            rank_estimate=3,
            low_rank_representation=info["low_rank_representation"],
        )


def test_sum_and_mean_do_not_differ_by_n_only() -> None:
    model = nn.Linear(2, 3, bias=False, dtype=F64)
    x, y = torch.randn(7, 2, dtype=F64), torch.randn(7, 3, dtype=F64)
    for loss in (nn.MSELoss(), nn.MSELoss(reduction="sum")):
        # The definition: the mean over points of the loss on a batch of one.
        H = dense_hessian(
            model, lambda m, loss=loss: torch.stack([loss(m(x[i : i + 1]), y[i : i + 1]) for i in range(7)]).mean()
        )
        problem = Problem(TorchTwiceDifferentiable(model, loss), batches_of(x, y, 3))
        torch.testing.assert_close(problem.hessian(1, 6)(torch.eye(6, dtype=F64)), H)

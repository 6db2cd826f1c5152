from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from benchmarks.judge import JUDGED, Judge
from benchmarks.problem_files import Problem, read_problem


def _closed_form(problem: Problem) -> Tensor:
    """H of softmax regression: the mean over points of (diag(q) − q qᵀ) ⊗ z zᵀ, for the weight and then the bias."""
    z = torch.cat([problem.x, torch.ones(len(problem.x), 1)], dim=1).double()
    q = problem.module(problem.x).double().softmax(dim=1)
    middle = torch.diag_embed(q) - q[:, :, None] * q[:, None, :]
    H = torch.einsum("nab,ni,nj->aibj", middle, z, z).detach() / len(z)
    features = z.shape[1] - 1
    weight = torch.arange(10)[:, None] * (features + 1) + torch.arange(features)
    order = torch.cat([weight.reshape(-1), torch.arange(10) * (features + 1) + features])
    return H.reshape(10 * (features + 1), -1)[order][:, order]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_the_judge_agrees_with_the_closed_form(small_problem: Path, dtype: torch.dtype) -> None:
    problem = read_problem(small_problem, dtype, 4)
    exact = read_problem(small_problem, torch.float64, 4)
    A = _closed_form(exact) + problem.damping * torch.eye(exact.cold.shape[1], dtype=torch.float64)
    X = torch.linalg.solve(A, problem.cold.double().T).T
    wrong = X + 1e-3 * torch.randn(X.shape, dtype=torch.float64)
    judge = Judge(small_problem, dtype, 4)
    expected = ((wrong @ A - problem.cold.double()).norm(dim=1) / problem.cold.double().norm(dim=1)).tolist()
    assert max(judge.residuals_of("cold", X)) < 1e-6
    assert judge.residuals_of("cold", wrong) == pytest.approx(expected, rel=1e-4)


def test_of_many_solutions_as_many_are_judged_as_promised_and_each_against_its_own_b(small_problem: Path) -> None:
    problem = read_problem(small_problem, torch.float64, 64)
    judge = Judge(small_problem, torch.float64, 64)
    assert len(judge.residuals_of("warm", torch.zeros_like(problem.warm))) == JUDGED
    A = _closed_form(problem) + problem.damping * torch.eye(problem.warm.shape[1], dtype=torch.float64)
    assert max(judge.residuals_of("warm", torch.linalg.solve(A, problem.warm.T).T)) < 1e-6


def test_copies_of_the_points_leave_the_problem_as_it_is(small_problem: Path) -> None:
    once = read_problem(small_problem, torch.float64, 1)
    twice = read_problem(small_problem, torch.float64, 1, points=120)
    assert len(twice.x) == 2 * len(once.x)
    assert torch.allclose(_closed_form(once), _closed_form(twice))

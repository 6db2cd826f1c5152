"""curvlinops 3: the inverse of a damped Hessian by GPyTorch's batched conjugate gradients."""

from __future__ import annotations

from typing import Any

import torch
from curvlinops import CGInverseLinearOperator, HessianLinearOperator
from curvlinops.examples import IdentityLinearOperator
from torch import Tensor

from benchmarks.adapters.contestant import ProductCounter
from benchmarks.problem_files import Problem

__all__ = ["make_solver"]

SAFE_DIVISION = 1e-30
"""``eps`` of the conjugate gradients: at the default of 1e-10 they stop to move at a residual of 1e-5."""
MOST_ITERATIONS = 5000


class _Solver:
    def __init__(self, problem: Problem, rtol: float, together: bool) -> None:
        parameters = list(problem.module.parameters())
        hessian = HessianLinearOperator(
            problem.module,
            problem.loss,
            parameters,
            [(problem.x, problem.y)],
            check_deterministic=False,
            num_data=problem.x.shape[0],
        )
        shapes = [tuple(p.shape) for p in parameters]
        identity = IdentityLinearOperator(shapes, problem.cold.device, problem.cold.dtype)
        # A column stops moving at rtol; then the mean over columns, which ends the iteration, is below it as well.
        self._inverse = CGInverseLinearOperator(
            hessian + problem.damping * identity,
            tolerance=rtol,
            stop_updating_after=rtol,
            eps=SAFE_DIVISION,
            max_iter=MOST_ITERATIONS,
            max_tridiag_iter=1,
        )
        self._together = together
        self._products = ProductCounter()
        operator = self._inverse._A
        operator._matmat = self._products.around(operator._matmat, lambda columns: int(columns[0].shape[-1]))

    def solve(self, rhs: Tensor) -> Tensor:
        """Solutions ``[k, p]``."""
        self._products.reset()
        if self._together:
            columns: Tensor = self._inverse @ rhs.T
            solution = columns.T.contiguous()
        else:
            solution = torch.stack([self._inverse @ b for b in rhs])
        self._last = rhs, solution
        return solution

    def facts(self) -> dict[str, Any]:
        """Products of the operator with a block of vectors, one an iteration; and the residual as it sees it."""
        facts = {"iterations": self._products.calls, **self._products.as_dict()}
        rhs, solution = self._last
        left = (self._inverse._A @ solution.T).T - rhs
        return {**facts, "own_residual": float((left.norm(dim=1) / rhs.norm(dim=1)).max())}


def make_solver(problem: Problem, rtol: float, *, together: bool = True) -> _Solver:
    """An operator whose inverse is applied to all right-hand sides at once, or to one after another."""
    return _Solver(problem, rtol, together)

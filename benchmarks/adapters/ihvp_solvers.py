"""This project, through its public interface: one ``solvers.Problem``, two solves."""

from __future__ import annotations

from typing import Any

from torch import Tensor

import solvers
from benchmarks.problem_files import Problem

__all__ = ["make_solver"]

MEMORY_BUDGET = 2**30
"""Bytes that a problem may keep: the library's default."""


class _Solver:
    def __init__(
        self, problem: Problem, rtol: float, method: str, options: dict[str, Any], memory_budget: int
    ) -> None:
        self._damping = problem.damping
        self._method = method
        # A dense solve has no tolerance, and nothing that iterates.
        self._iterates = method != "direct"
        self._options = {"rtol": rtol, "atol": 0.0, **options} if self._iterates else options
        model = solvers.TorchTwiceDifferentiable(problem.module, problem.loss)
        self._problem = solvers.Problem(model, [(problem.x, problem.y)], memory_budget=memory_budget)
        self._info: dict[str, Any] = {}

    def solve(self, rhs: Tensor) -> Tensor:
        """Solutions ``[k, p]``."""
        result = self._problem.solve(self._method, rhs, hessian_perturbation=self._damping, **self._options)
        self._info = result.info
        return result.x

    def facts(self) -> dict[str, Any]:
        """Iterations, the worst status, and what ``info`` says about the way of solving."""
        certificates = self._info["certificate"]
        unfinished = sorted({c["status"] for c in certificates} - {"converged"})
        return {
            "iterations": max(c["iterations"] for c in certificates) if self._iterates else None,
            "status": ", ".join(unfinished) or "converged",
            "products": self._info.get("hvps"),
            "product_seconds": self._product_seconds(),
            "certified": max(c["relative_residual"] or 0.0 for c in certificates),
            "info": {key: value for key, value in self._info.items() if _is_plain(value) and key != "certificate"},
        }

    def _product_seconds(self) -> float | None:
        """Products times what one takes by the problem's own measurement; None where it made none."""
        each, products = self._problem.seconds_per_product, self._info.get("hvps")
        return None if each is None or products is None else each * products


def _is_plain(value: Any) -> bool:
    """Whether JSON can hold it without being long."""
    if isinstance(value, dict):
        return all(_is_plain(part) for part in value.values())
    return value is None or isinstance(value, str | int | float | bool)


def make_solver(
    problem: Problem, rtol: float, *, method: str = "cg", memory_budget: int = MEMORY_BUDGET, **options: Any
) -> _Solver:
    """A problem object; linearisations, sketches and factors stay in it for the second solve."""
    return _Solver(problem, rtol, method, options, memory_budget)

"""pyDVL 0.7.1: ``solve_hvp`` with conjugate gradients."""

from __future__ import annotations

from typing import Any

from pydvl.influence.inversion import InversionMethod, solve_hvp
from pydvl.influence.torch import TorchTwiceDifferentiable
from torch import Tensor, nn

from benchmarks.adapters.contestant import ProductCounter
from benchmarks.problem_files import Problem

__all__ = ["make_solver"]


class _FromFloats(nn.Module):
    """Takes token ids as floating-point numbers, for the library asks its inputs to require gradients."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        """The inner module's outputs."""
        outputs: Tensor = self.inner(x.long())
        return outputs


class _Solver:
    def __init__(self, problem: Problem, rtol: float) -> None:
        module, x = problem.module, problem.x
        if not x.is_floating_point():
            module, x = _FromFloats(module).eval(), x.double()
        self._model = TorchTwiceDifferentiable(module, problem.loss)
        self._products = ProductCounter()
        # A static method of the library's class; found on the instance first.
        self._model.mvp = self._products.around(self._model.mvp, _vectors)
        self._data = [(x, problem.y)]
        self._damping = problem.damping
        self._rtol = rtol
        self._iterations: int | None = None

    def solve(self, rhs: Tensor) -> Tensor:
        """Solutions ``[k, p]``."""
        self._products.reset()
        result = solve_hvp(
            InversionMethod.Cg,
            self._model,
            self._data,
            rhs,
            hessian_perturbation=self._damping,
            rtol=self._rtol,
            atol=0.0,
            maxiter=5000,
        )
        self._iterations = max(info["niter"] for info in result.info.values())
        solution: Tensor = result.x
        return solution

    def facts(self) -> dict[str, Any]:
        """Iterations of the slowest right-hand side, and products."""
        return {"iterations": self._iterations, **self._products.as_dict()}


def _vectors(_gradient: Tensor, v: Tensor, *_: Any, **__: Any) -> int:
    return 1 if v.ndim == 1 else int(v.shape[0])


def make_solver(problem: Problem, rtol: float) -> _Solver:
    """One batch of all points, whose gradient graph the library keeps during a solve."""
    return _Solver(problem, rtol)

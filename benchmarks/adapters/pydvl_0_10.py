"""pyDVL 0.10: ``CgInfluence``, one by one or as a block, with and without Nyström, and ``DirectInfluence``."""

from __future__ import annotations

import logging
import re
import time
from typing import Any

from pydvl.influence.torch import CgInfluence, DirectInfluence
from pydvl.influence.torch.preconditioner import NystroemPreconditioner
from torch import Tensor

from benchmarks.adapters.contestant import ProductCounter
from benchmarks.problem_files import Problem

__all__ = ["make_solver"]

TERMINATED = re.compile(r"Terminated .*cg after (\d+) iterations")


class _Iterations(logging.Handler):
    """Reads iterations out of the library's debug log, the only place where it tells them."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.most: int | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """Notes the largest number of iterations said so far."""
        found = TERMINATED.search(record.getMessage())
        if found:
            self.most = max(self.most or 0, int(found[1]) + 1)


class _Solver:
    """Right-hand sides are scaled to norm 1: the library compares residuals with rtol² ‖b‖, or with atol².

    Scaled, ``rtol = sqrt(tolerance)`` asks a block for exactly the tolerance. One by one the norms are taken along
    the wrong axis, which makes them numbers near 0, so that ``atol = sqrt(tolerance)`` has to ask for it.
    """

    def __init__(self, problem: Problem, rtol: float, block: bool, rank: int | None) -> None:
        root = rtol**0.5
        influence = CgInfluence(
            problem.module,
            problem.loss,
            regularization=problem.damping,
            rtol=root if block else 0.0,
            atol=0.0 if block else root,
            maxiter=5000,
            preconditioner=NystroemPreconditioner(rank) if rank else None,
            solve_simultaneously=block,
        )
        # One batch of all points: fewer, larger operations, and its average over batches is then exact.
        influence.fit([(problem.x, problem.y)])
        (self._operator,) = (block.op for block in influence.block_mapper.composable_block_dict.values())
        self._products = ProductCounter()
        hessian = self._operator.operator
        hessian.apply = self._products.around(hessian.apply, lambda v: 1 if v.ndim == 1 else int(v.shape[0]))
        self._iterations = _Iterations()
        logger = logging.getLogger("pydvl.influence.torch.operator")
        logger.setLevel(logging.DEBUG)
        logger.propagate = False
        logger.addHandler(self._iterations)

    def solve(self, rhs: Tensor) -> Tensor:
        """Solutions ``[k, p]``."""
        self._iterations.most = None
        self._products.reset()
        norms = rhs.norm(dim=1, keepdim=True)
        solution: Tensor = self._operator.apply(rhs / norms)
        return solution.mul_(norms)

    def facts(self) -> dict[str, Any]:
        """Iterations and products; those of a preconditioner's set-up are not counted."""
        return {"iterations": self._iterations.most, **self._products.as_dict()}


class _DirectSolver:
    """The library keeps H + λI as a matrix, and factors it in every solve."""

    def __init__(self, problem: Problem) -> None:
        started = time.perf_counter()
        influence = DirectInfluence(problem.module, problem.loss, regularization=problem.damping)
        influence.fit([(problem.x, problem.y)])
        (self._operator,) = (block.op for block in influence.block_mapper.composable_block_dict.values())
        self._made: dict[str, float] = {"hessian": time.perf_counter() - started}
        self._timings: dict[str, float] = {}

    def solve(self, rhs: Tensor) -> Tensor:
        """Solutions ``[k, p]``."""
        started = time.perf_counter()
        solution: Tensor = self._operator.apply(rhs)
        # The matrix belongs to the first solve.
        self._timings, self._made = {**self._made, "solve": time.perf_counter() - started}, {}
        return solution

    def facts(self) -> dict[str, Any]:
        """Seconds of the matrix and of the solve; nothing iterates."""
        return {"iterations": None, "info": {"timings": self._timings}}


def make_solver(
    problem: Problem, rtol: float, *, block: bool = True, rank: int | None = None, direct: bool = False
) -> _Solver | _DirectSolver:
    """A fitted ``CgInfluence``; with a rank, its Nyström preconditioner is fitted and serves both solves.

    ``direct`` makes a fitted ``DirectInfluence`` of it, which has no tolerance.
    """
    return _DirectSolver(problem) if direct else _Solver(problem, rtol, block, rank)

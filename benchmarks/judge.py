"""The one judge of all solutions: the relative residual in float64, by an operator of its own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.problem_files import read_problem

__all__ = ["Judge"]

JUDGED = 16
"""Most solutions of a run that are judged: of 64, every fourth."""


class Judge:
    """Recomputes residuals by double backward in float64; shares no code with any contestant.

    Args:
        folder: The files of the problem.
        dtype: The dtype the contestants work in. H is taken at their weights and their data, b is theirs too.
        count: The number of right-hand sides.
    """

    def __init__(self, folder: Path, dtype: torch.dtype, count: int) -> None:
        given = read_problem(folder, dtype, count)
        exact = read_problem(folder, torch.float64, count)
        x = given.x.double() if given.x.is_floating_point() else given.x
        self._rhs = {"cold": given.cold.double(), "warm": given.warm.double()}
        self._damping = given.damping
        self._parameters = list(exact.module.parameters())
        with sdpa_kernel(SDPBackend.MATH):
            loss = exact.loss(exact.module(x), given.y)
            self._gradient = torch.autograd.grad(loss, self._parameters, create_graph=True)

    @property
    def parameters(self) -> int:
        """The number p of parameters."""
        return sum(p.numel() for p in self._parameters)

    def residuals(self, which: str, solutions: Path) -> list[float]:
        """‖(H+λI)x − b‖ / ‖b‖ of the rows of a ``.npy`` file; NaN where x is not finite."""
        return self.residuals_of(which, torch.from_numpy(np.load(solutions)).double())

    def residuals_of(self, which: str, solutions: Tensor) -> list[float]:
        """‖(H+λI)x − b‖ / ‖b‖ of the rows of ``solutions`` ``[k, p]``, evenly spread where there are many."""
        step = max(1, solutions.shape[0] // JUDGED)
        found = []
        for x, b in zip(solutions[::step], self._rhs[which][::step], strict=True):
            residual = self._product(x) + self._damping * x - b
            found.append(float(residual.norm() / b.norm()))
        return found

    def _product(self, v: Tensor) -> Tensor:
        parts = [
            part.reshape(p.shape)
            for part, p in zip(torch.split(v, [p.numel() for p in self._parameters]), self._parameters, strict=True)
        ]
        product = torch.autograd.grad(
            self._gradient, self._parameters, parts, retain_graph=True, materialize_grads=True
        )
        return torch.cat([g.reshape(-1) for g in product])

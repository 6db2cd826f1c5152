"""MINRES for several right-hand sides that share each pass over the data: the state of one solve and its iteration."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final

import torch
from torch import Tensor

from ihvp.methods import TerminationStatus
from solvers.certificate import Tolerance
from solvers.krylov_iteration import KrylovIteration
from solvers.preconditioners import Preconditioner
from solvers.system import LinearSystem

__all__ = ["MinresIteration"]

VECTORS: Final = ("older", "old", "y", "w", "w_old")
NUMBERS: Final = ("beta", "beta_old", "dbar", "epsilon", "phibar", "cs", "sn", "scale")
SINGULAR: Final = (
    "H + λI is singular to working precision and b is not in its range: x is close to a least-squares solution. "
    "Raise hessian_perturbation, or use direct, which finds the solution of least norm."
)


class MinresIteration(KrylovIteration):
    """One Lanczos process and one QR factorisation a right-hand side (Paige & Saunders, 1975), products together.

    The matrices hold the right-hand sides that are still being worked on, in the order of ``active``.
    ``R`` is the residual itself, by the recurrence of Choi, Paige & Saunders (2011): with a preconditioner, the norm
    that MINRES makes small is another one than the caller's.

    Args:
        system: What is to be solved.
        x0: First iterate, or None.
        tolerance: When a right-hand side is solved.
        maxiter: Most iterations.
        preconditioner: What is solved with first, symmetric positive definite; or None.
    """

    smaller: ClassVar[float] = 0.999

    def __init__(
        self,
        system: LinearSystem,
        x0: Tensor | None,
        tolerance: Tolerance,
        maxiter: int,
        preconditioner: Preconditioner | None,
    ) -> None:
        super().__init__(system, x0, tolerance, maxiter, preconditioner)
        k = system.rhs.shape[0]
        self.eps = torch.finfo(system.rhs.dtype).eps
        # Not read before a column has begun.
        self.older, self.old, self.y, self.w, self.w_old = (torch.zeros_like(self.R) for _ in VECTORS)
        zeros = torch.zeros(k, dtype=torch.float64, device=self.R.device)
        self.beta, self.beta_old, self.dbar, self.epsilon = (zeros.clone() for _ in range(4))
        self.phibar, self.cs, self.sn, self.scale = (zeros.clone() for _ in range(4))
        # Of the last step: whose space has no further vector, and where H + λI was met as singular.
        self.exhausted, self.singular = [False] * k, [False] * k

    def _begin(self, positions: list[int]) -> None:
        """Starts the Lanczos process of some columns at their residuals."""
        if not positions:
            return
        R = self.R[positions]
        y = self._preconditioned(R)
        beta = torch.linalg.vecdot(R.double(), y.double()).clamp_min(0.0).sqrt()
        self.old[positions], self.y[positions] = R, y
        self.older[positions] = self.w[positions] = self.w_old[positions] = 0.0
        for numbers, value in ((self.beta, beta), (self.phibar, beta), (self.cs, -1.0)):
            numbers[positions] = value
        for numbers in (self.beta_old, self.dbar, self.epsilon, self.sn, self.scale):
            numbers[positions] = 0.0

    def _start(self) -> None:
        self._begin(list(range(len(self.active))))

    def _step(self, iteration: int) -> None:
        v = self.y / self._column(self.beta)
        Av = self.system.operator(v)
        begun = self.beta_old > 0
        Av -= self._column(torch.where(begun, self.beta / torch.where(begun, self.beta_old, 1.0), 0.0)) * self.older
        alpha = torch.linalg.vecdot(v.double(), Av.double())
        Av -= self._column(alpha / self.beta) * self.old
        self.older, self.old = self.old, Av
        self.y = self._preconditioned(Av)
        square = torch.linalg.vecdot(self.old.double(), self.y.double())
        self.beta_old, self.beta = self.beta, square.clamp_min(0.0).sqrt()
        # The size of H as this process sees it; below its rounding the space is exhausted.
        self.scale = torch.maximum(self.scale, alpha.abs() + self.beta + self.beta_old * begun)
        exhausted = self.beta <= 10 * self.eps * self.scale
        self.beta = torch.where(exhausted, 0.0, self.beta)

        epsilon_old, delta = self.epsilon, self.cs * self.dbar + self.sn * alpha
        gbar = self.sn * self.dbar - self.cs * alpha
        self.epsilon, self.dbar = self.sn * self.beta, -self.cs * self.beta
        root = torch.hypot(gbar, self.dbar)
        gamma = torch.hypot(gbar, self.beta)
        # No step can be taken where the projected matrix is singular as well.
        stuck = gamma <= 10 * self.eps * self.scale
        gamma = torch.where(stuck, 1.0, gamma)
        self.cs = torch.where(stuck, 0.0, gbar / gamma)
        self.sn = torch.where(stuck, 1.0, self.beta / gamma)
        phi = self.cs * self.phibar
        self.phibar = self.sn * self.phibar
        w = (v - self._column(epsilon_old) * self.w_old - self._column(delta) * self.w).div_(self._column(gamma))
        self.w_old, self.w = self.w, w
        self.X[self.active] += self._column(phi) * w
        ahead = torch.where(self.beta > 0, self.cs * self.phibar / torch.where(self.beta > 0, self.beta, 1.0), 0.0)
        self.R = self._column(self.sn.square()) * self.R - self._column(ahead) * self.old
        # ‖(H + λI) r‖ is this times ‖r‖: at a least-squares solution it is rounding.
        flat = (root <= 10 * self.eps * self.scale) & ~exhausted
        # A space may be exhausted where all is solved, up to rounding; only the other two tell of a singular matrix.
        self.exhausted, self.singular = exhausted.tolist(), (stuck | flat).tolist()
        self._measure()
        self._settle(iteration)

    def _column(self, numbers: Tensor) -> Tensor:
        return numbers.to(self.R.dtype)[:, None]

    def _looked_at(self, j: int, iteration: int) -> bool:  # noqa: ARG002
        return self.exhausted[j] or self.singular[j] or not math.isfinite(self.norms[j])

    def _confirm(self, iteration: int, positions: Sequence[int]) -> list[int]:
        again = super()._confirm(iteration, positions)
        self._begin([self.active.index(i) for i in again])
        return again

    def _take_up(self, j: int, residual: Tensor, iteration: int) -> None:  # noqa: ARG002
        self.R[j] = residual

    def _may_go_on(self, j: int) -> bool:
        return not self._overflows(j)

    def _failure(self, j: int, value: float) -> tuple[TerminationStatus, str | None]:
        if not math.isfinite(value) or self._overflows(j):
            return TerminationStatus.NonFinite, None
        return (TerminationStatus.Breakdown, SINGULAR) if self.singular[j] else (TerminationStatus.Stagnated, None)

    def _overflows(self, position: int) -> bool:
        """Whether a length is beyond the dtype: its vector was then divided into zeros."""
        return float(torch.maximum(self.beta, self.beta_old)[position]) > torch.finfo(self.R.dtype).max

    def _keep(self, going_on: Sequence[bool]) -> None:
        super()._keep(going_on)
        if not all(going_on):
            chosen = [j for j, keep in enumerate(going_on) if keep]
            for name in (*VECTORS, *NUMBERS):
                setattr(self, name, getattr(self, name)[chosen])

    def _tensors(self) -> dict[str, Tensor]:
        return {**super()._tensors(), **{name: getattr(self, name) for name in (*VECTORS, *NUMBERS)}}

    def _restore(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        super()._restore(tensors, facts)
        for name in (*VECTORS, *NUMBERS):
            like = self.X if name in VECTORS else self.beta
            setattr(self, name, tensors[name].to(like).clone())

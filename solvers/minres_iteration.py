"""MINRES for several right-hand sides that share each pass over the data: the state of one solve and its iteration."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

import torch
from torch import Tensor

from ihvp.methods import TerminationStatus
from solvers.certificate import Ending, Tolerance
from solvers.checkpoint import Checkpoints, SolverState, check_resume, endings_from, endings_to, identity_of
from solvers.preconditioners import Preconditioner
from solvers.rhs import starting_point
from solvers.system import LinearSystem

__all__ = ["MinresIteration"]

MARGIN: Final = 0.9
"""Share of the tolerance that the recurrence has to meet before the true residual is computed."""
PATIENCE: Final = 1000
"""Iterations in which the residual may fall by less than a thousandth before it is looked at."""
VECTORS: Final = ("X", "R", "older", "old", "y", "w", "w_old")
NUMBERS: Final = ("beta", "beta_old", "dbar", "epsilon", "phibar", "cs", "sn", "scale")
SINGULAR: Final = (
    "H + λI is singular to working precision and b is not in its range: x is close to a least-squares solution. "
    "Raise hessian_perturbation, or use direct, which finds the solution of least norm."
)


class MinresIteration:
    """One Lanczos process and one QR factorisation a right-hand side (Paige & Saunders, 1975), products together.

    The matrices hold the right-hand sides that are still being worked on, in the order of ``active``; ``X`` holds all.
    ``R`` is the residual itself, by the recurrence of Choi, Paige & Saunders (2011): with a preconditioner, the norm
    that MINRES makes small is another one than the caller's.

    Args:
        system: What is to be solved.
        x0: First iterate, or None.
        tolerance: When a right-hand side is solved.
        maxiter: Most iterations.
        preconditioner: What is solved with first, symmetric positive definite; or None.
    """

    def __init__(
        self,
        system: LinearSystem,
        x0: Tensor | None,
        tolerance: Tolerance,
        maxiter: int,
        preconditioner: Preconditioner | None,
    ) -> None:
        self.system = system
        self.maxiter = maxiter
        self.precondition = preconditioner
        k = system.rhs.shape[0]
        self.eps = torch.finfo(system.rhs.dtype).eps
        self.norm_b = system.rhs.double().norm(dim=1).tolist()
        self.target = [max(tolerance.rtol * norm, tolerance.atol) for norm in self.norm_b]
        self.patience = max(20, min(system.operator.size, PATIENCE))
        self.active = list(range(k))
        self.endings: dict[int, Ending] = {}
        self.best = [math.inf] * k
        self.lowest = [math.inf] * k
        self.since_lowest = [0] * k
        self.residuals = list(self.norm_b)
        if x0 is None:
            self.X = torch.zeros_like(system.rhs)
            self.R = system.rhs.clone()
        else:
            self.X = starting_point("x0", x0, system.rhs)
            self.R = system.rhs - system.operator(self.X)
        # Not read before a column has begun.
        self.older, self.old, self.y, self.w, self.w_old = (torch.zeros_like(self.R) for _ in range(5))
        zeros = torch.zeros(k, dtype=torch.float64, device=self.R.device)
        self.beta, self.beta_old, self.dbar, self.epsilon = (zeros.clone() for _ in range(4))
        self.phibar, self.cs, self.sn, self.scale = (zeros.clone() for _ in range(4))

    def run(self, checkpoints: Checkpoints | None = None) -> None:
        """Iterates until every right-hand side has ended.

        Args:
            checkpoints: Where the state is saved between iterations, and found again.
        """
        begun = 0
        if checkpoints is not None and checkpoints.resume is not None:
            begun = self._restore(checkpoints.resume)
        else:
            self._settle(0)
            self._begin(list(range(len(self.active))))
        for iteration in range(begun + 1, self.maxiter + 1):
            if not self.active:
                return
            self._step(iteration)
            if checkpoints is not None and self.active and checkpoints.due():
                checkpoints.save(self._state(iteration))
            relative = [r / norm if norm else 0.0 for r, norm in zip(self.residuals, self.norm_b, strict=True)]
            stop = self.system.report(iteration, self.maxiter, relative)
            if stop is not None:
                self._end_all(stop, iteration)
                return
        self._end_all(TerminationStatus.MaxIterations, self.maxiter)

    def _begin(self, positions: list[int]) -> None:
        """Starts the Lanczos process of some columns at their residuals."""
        if not positions:
            return
        R = self.R[positions]
        y = R if self.precondition is None else self.precondition(R)
        beta = torch.linalg.vecdot(R.double(), y.double()).clamp_min(0.0).sqrt()
        self.old[positions], self.y[positions] = R, y
        self.older[positions] = self.w[positions] = self.w_old[positions] = 0.0
        for numbers, value in ((self.beta, beta), (self.phibar, beta), (self.cs, -1.0)):
            numbers[positions] = value
        for numbers in (self.beta_old, self.dbar, self.epsilon, self.sn, self.scale):
            numbers[positions] = 0.0

    def _step(self, iteration: int) -> None:
        v = self.y / self._column(self.beta)
        Av = self.system.operator(v)
        begun = self.beta_old > 0
        Av -= self._column(torch.where(begun, self.beta / torch.where(begun, self.beta_old, 1.0), 0.0)) * self.older
        alpha = torch.linalg.vecdot(v.double(), Av.double())
        Av -= self._column(alpha / self.beta) * self.old
        self.older, self.old = self.old, Av
        self.y = Av if self.precondition is None else self.precondition(Av)
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
        self._settle(iteration, exhausted.tolist(), (stuck | flat).tolist())

    def _column(self, numbers: Tensor) -> Tensor:
        return numbers.to(self.R.dtype)[:, None]

    def _settle(self, iteration: int, exhausted: Sequence[bool] = (), singular: Sequence[bool] = ()) -> None:
        """Ends what has met its tolerance by the true residual, has no step left, or has stopped getting better."""
        norms: list[float] = torch.linalg.vector_norm(self.R, dim=1, dtype=torch.float64).tolist()
        exhausted, singular = (list(flags) or [False] * len(norms) for flags in (exhausted, singular))
        done: list[int] = []
        for j, (i, norm) in enumerate(zip(self.active, norms, strict=True)):
            self.residuals[i] = norm
            better = norm < 0.999 * self.lowest[i]
            self.lowest[i] = min(norm, self.lowest[i])
            self.since_lowest[i] = 0 if better else self.since_lowest[i] + 1
            weary = self.since_lowest[i] > self.patience
            over = exhausted[j] or singular[j] or weary or not math.isfinite(norm)
            if norm <= MARGIN * self.target[i] or over:
                done.append(j)
        if done:
            self._confirm(iteration, done, singular)

    def _confirm(self, iteration: int, positions: list[int], singular: Sequence[bool]) -> None:
        rows = [self.active[j] for j in positions]
        residual, relative = self.system.residual(rows, self.X[rows])
        going_on = [True] * len(self.active)
        again: list[int] = []
        for j, i, r, value in zip(positions, rows, residual, relative.tolist(), strict=True):
            if value * self.norm_b[i] <= self.target[i]:
                self.endings[i] = Ending(TerminationStatus.Converged, iteration, relative_residual=value)
            elif not math.isfinite(value) or self._overflows(j):
                self.endings[i] = Ending(TerminationStatus.NonFinite, iteration)
            elif value < self.best[i] / 2:
                self.best[i], self.lowest[i], self.since_lowest[i] = value, math.inf, 0
                self.R[j] = r.to(self.R.dtype)
                again.append(i)
            elif singular[j]:
                self.endings[i] = Ending(TerminationStatus.Breakdown, iteration, SINGULAR, relative_residual=value)
            else:
                self.endings[i] = Ending(TerminationStatus.Stagnated, iteration, relative_residual=value)
            going_on[j] = i not in self.endings
        self._keep(going_on)
        self._begin([self.active.index(i) for i in again])

    def _overflows(self, position: int) -> bool:
        """Whether a length is beyond the dtype: its vector was then divided into zeros."""
        return float(torch.maximum(self.beta, self.beta_old)[position]) > torch.finfo(self.R.dtype).max

    def _keep(self, going_on: Sequence[bool]) -> None:
        if all(going_on):
            return
        chosen = [j for j, keep in enumerate(going_on) if keep]
        self.active = [self.active[j] for j in chosen]
        for name in (*VECTORS[1:], *NUMBERS):
            setattr(self, name, getattr(self, name)[chosen])

    def _end_all(self, status: TerminationStatus, iteration: int) -> None:
        for i in self.active:
            self.endings[i] = Ending(status, iteration)
        self.active = []

    def _state(self, iteration: int) -> SolverState:
        """Everything that the next iteration depends on."""
        facts: dict[str, Any] = {
            **identity_of(self.system),
            "active": self.active,
            "residuals": self.residuals,
            "since_lowest": self.since_lowest,
            "endings": endings_to(self.endings),
        }
        for name in ("best", "lowest"):
            facts[name] = [b if math.isfinite(b) else None for b in getattr(self, name)]
        tensors = {name: getattr(self, name) for name in (*VECTORS, *NUMBERS)}
        return SolverState(self.system.method.value, iteration, tensors, facts)

    def _restore(self, state: SolverState) -> int:
        """Takes up a saved state; returns the iterations that were done."""
        check_resume(self.system, state)
        for name in (*VECTORS, *NUMBERS):
            like = self.X if name in VECTORS else self.beta
            setattr(self, name, state.tensors[name].to(like).clone())
        facts = state.facts
        self.active, self.residuals = list(facts["active"]), list(facts["residuals"])
        self.since_lowest = list(facts["since_lowest"])
        self.best, self.lowest = ([math.inf if b is None else b for b in facts[name]] for name in ("best", "lowest"))
        self.endings = endings_from(facts["endings"])
        return state.iteration

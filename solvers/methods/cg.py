"""Conjugate gradients for all right-hand sides together, each stopped on its own residual."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from ihvp.methods import InversionMethod, TerminationStatus
from solvers.certificate import Ending, Tolerance
from solvers.lanczos import smallest_eigenvalue
from solvers.progress import Callback
from solvers.registry import InversionRegistry
from solvers.result import InverseHvpResult
from solvers.rhs import starting_point
from solvers.system import LinearSystem, checked_options
from solvers.torch_model import TorchTwiceDifferentiable

__all__ = ["solve_cg"]

EXPECTED_ITERATIONS = 30
"""For the choice of a product strategy only."""
CURVATURE_PROBES = 30
"""Lanczos steps spent on the smallest eigenvalue once negative curvature was met."""


@InversionRegistry.register(TorchTwiceDifferentiable, InversionMethod.Cg)
def solve_cg(
    model: TorchTwiceDifferentiable,
    training_data: Iterable[Any],
    b: Tensor,
    hessian_perturbation: float = 0.0,
    *,
    x0: Tensor | None = None,
    rtol: float = 1e-7,
    atol: float = 1e-7,
    maxiter: int | None = None,
    progress: bool = False,
    callback: Callback | None = None,
) -> InverseHvpResult[Tensor]:
    """Solves by conjugate gradients (Hestenes & Stiefel, 1952); H + λI must be positive definite.

    All right-hand sides share each pass over the data. One that has ended leaves the products. Before
    ``converged`` is said the residual is recomputed with the true operator; where the recurrence had drifted
    from it the iteration starts again from the true one, and ends as ``stagnated`` once that gains nothing.
    On negative curvature x is the last iterate before it.

    Args:
        model: The model and its loss.
        training_data: Batches ``(x, y)``, or a :class:`solvers.Problem` of the same model.
        b: ``[p]`` or ``[k, p]``.
        hessian_perturbation: λ ≥ 0.
        x0: First iterate, ``[p]`` or ``[k, p]``; not changed. Zero if left out.
        rtol: Tolerance on ‖(H+λI)x − b‖ / ‖b‖. 1e-7 is beyond float32 on most problems.
        atol: Tolerance on ‖(H+λI)x − b‖; stopping on it alone is the status ``absolute_tolerance``.
        maxiter: Most iterations; 10 p if left out.
        progress: Draws a progress bar on stderr.
        callback: See :func:`solvers.solve_hvp`.

    Returns:
        ``info`` has, a list each with one entry a right-hand side: ``niter`` (iterations), ``optimal``
        (whether a tolerance was met) and ``gamma`` (squared norm of the last residual as the iteration had it).

    Raises:
        InvalidInput: See :func:`solvers.solve_hvp`.
    """
    options = checked_options(InversionMethod.Cg, rtol=rtol, atol=atol, maxiter=maxiter)
    system = LinearSystem(
        InversionMethod.Cg,
        model,
        training_data,
        b,
        hessian_perturbation,
        options={**options, "x0": None if x0 is None else list(x0.shape)},
        expected_products=min(EXPECTED_ITERATIONS, maxiter or EXPECTED_ITERATIONS),
        callback=callback,
        progress=progress,
    )
    iteration = _Iteration(system, x0, Tolerance(rtol, atol), maxiter or 10 * system.operator.size)
    iteration.run()
    endings = [iteration.endings[i] for i in range(system.rhs.shape[0])]
    solved = (TerminationStatus.Converged, TerminationStatus.AbsoluteTolerance)
    return system.result(
        iteration.X,
        endings,
        Tolerance(rtol, atol),
        niter=[e.iterations for e in endings],
        optimal=[e.status in solved for e in endings],
        gamma=iteration.gamma,
    )


class _Iteration:
    """The state of the right-hand sides that are still being worked on.

    ``X`` holds all k solutions. ``R`` and ``P`` hold residuals and search directions of the active ones only,
    in the order of ``active``, so that a product never includes one that has ended.
    """

    def __init__(self, system: LinearSystem, x0: Tensor | None, tolerance: Tolerance, maxiter: int) -> None:
        self.system = system
        self.maxiter = maxiter
        k = system.rhs.shape[0]
        self.norm_b = system.rhs.double().norm(dim=1).tolist()
        # The operator is never so well known that less than rtol·‖b‖ could be told apart from it.
        self.target = [max(tolerance.rtol * norm, tolerance.atol) for norm in self.norm_b]
        self.active = list(range(k))
        self.endings: dict[int, Ending] = {}
        self.best = [math.inf] * k
        self.best_x: dict[int, Tensor] = {}
        self.since_best = [0] * k
        self.lowest = [math.inf] * k
        self.smallest: float | None = None
        if x0 is None:
            self.X = torch.zeros_like(system.rhs)
            self.R = system.rhs.clone()
        else:
            self.X = starting_point("x0", x0, system.rhs)
            self.R = system.rhs - system.operator(self.X)
        self.P = self.R.clone()
        self.rr = torch.linalg.vecdot(self.R, self.R)
        self.gamma: list[float] = self.rr.tolist()

    def run(self) -> None:
        """Iterates until every right-hand side has ended."""
        self._settle(0)
        for iteration in range(1, self.maxiter + 1):
            if not self.active:
                return
            self._step(iteration)
            self._settle(iteration)
            stop = self.system.report(iteration, self.maxiter, self._relative())
            if stop is not None:
                self._end_all(stop, iteration)
                return
        self._end_all(TerminationStatus.MaxIterations, self.maxiter)

    def _step(self, iteration: int) -> None:
        """One step of each active right-hand side; ends those along which there is none to take."""
        AP = self.system.operator(self.P)
        curvature = torch.linalg.vecdot(self.P, AP)
        square = torch.linalg.vecdot(self.P, self.P)
        # Below this the sign of the curvature is rounding.
        noise = 4 * torch.finfo(AP.dtype).eps * square.sqrt() * AP.norm(dim=1)
        alpha = self.rr / curvature
        R = self.R - alpha[:, None] * AP
        rr = torch.linalg.vecdot(R, R)
        good = (curvature > noise) & rr.isfinite() & alpha.isfinite()
        if not bool(good.all()):
            self._end_without_step(iteration, good, curvature, square, noise)
            AP, R, rr, alpha = AP[good], R[good], rr[good], alpha[good]
            if not self.active:
                return
        self.X[self.active] += alpha[:, None] * self.P
        beta = rr / self.rr
        self.P.mul_(beta[:, None]).add_(R)
        self.R, self.rr = R, rr
        for i, value in zip(self.active, rr.tolist(), strict=True):
            self.gamma[i] = value

    def _end_without_step(
        self, iteration: int, good: Tensor, curvature: Tensor, square: Tensor, noise: Tensor
    ) -> None:
        facts = zip(self.active, good.tolist(), curvature.tolist(), square.tolist(), noise.tolist(), strict=True)
        for position, (i, fine, along, length, rounding) in enumerate(list(facts)):
            if fine:
                continue
            if not (math.isfinite(along) and math.isfinite(length)) or along > rounding:
                self.endings[i] = Ending(TerminationStatus.NonFinite, iteration)
                continue
            status = TerminationStatus.NegativeCurvature
            if along >= -rounding:
                status = TerminationStatus.Breakdown
            self.endings[i] = Ending(
                status,
                iteration,
                rayleigh_quotient=along / length if length else 0.0,
                suggested_perturbation=self._sufficient_damping(self.P[position]),
                advice=self._singular_advice() if status is TerminationStatus.Breakdown else None,
            )
        self._keep([bool(g) for g in good.tolist()])

    def _sufficient_damping(self, direction: Tensor) -> float:
        """A λ above the smallest eigenvalue of H as far as a few Lanczos steps show it; found once a solve."""
        if self.smallest is None:
            self.smallest = smallest_eigenvalue(self.system.operator, direction, CURVATURE_PROBES)
        below = self.system.damping - self.smallest
        return 1.1 * below if below > 0 else max(2 * self.system.damping, 1e-3)

    def _singular_advice(self) -> str:
        return (
            "H + λI is singular to working precision along a search direction. Raise hessian_perturbation, "
            "or use direct, which finds the least-norm solution where there is one."
        )

    def _settle(self, iteration: int) -> None:
        """Ends what has met its tolerance by the true residual, or has stopped getting better."""
        norms = self.rr.double().sqrt().tolist()
        done = [j for j, (i, norm) in enumerate(zip(self.active, norms, strict=True)) if norm <= self.target[i]]
        for j, (i, norm) in enumerate(zip(self.active, norms, strict=True)):
            fell = norm < self.lowest[i]
            self.lowest[i] = min(norm, self.lowest[i])
            self.since_best[i] = 0 if fell else self.since_best[i] + 1
            # Exact arithmetic ends within p steps; as long without a better residual is rounding at work.
            if self.since_best[i] > max(self.system.operator.size, 20) and j not in done:
                done.append(j)
        if done:
            self._confirm(iteration, sorted(done))

    def _confirm(self, iteration: int, positions: list[int]) -> None:
        rows = [self.active[j] for j in positions]
        residual, relative = self.system.residual(rows, self.X[rows])
        going_on = [True] * len(self.active)
        for j, i, r, value in zip(positions, rows, residual, relative.tolist(), strict=True):
            if value * self.norm_b[i] <= self.target[i]:
                self.endings[i] = Ending(TerminationStatus.Converged, iteration, relative_residual=value)
                going_on[j] = False
            elif not value < self.best[i] / 2:
                # A fresh start gained less than half: what is left is the rounding of the operator.
                best = min(value, self.best[i])
                if best < value:
                    self.X[i] = self.best_x[i]
                self.endings[i] = Ending(TerminationStatus.Stagnated, iteration, relative_residual=best)
                going_on[j] = False
            else:
                self.best[i], self.best_x[i] = value, self.X[i].clone()
                self.lowest[i], self.since_best[i] = math.inf, 0
                self.R[j] = r.to(self.R.dtype)
                self.P[j] = self.R[j]
                self.rr[j] = torch.linalg.vecdot(self.R[j], self.R[j])
        self._keep(going_on)

    def _keep(self, going_on: list[bool]) -> None:
        if all(going_on):
            return
        chosen = [j for j, keep in enumerate(going_on) if keep]
        self.active = [self.active[j] for j in chosen]
        self.R, self.P, self.rr = self.R[chosen], self.P[chosen], self.rr[chosen]

    def _relative(self) -> list[float]:
        return [math.sqrt(g) / norm if norm else 0.0 for g, norm in zip(self.gamma, self.norm_b, strict=True)]

    def _end_all(self, status: TerminationStatus, iteration: int) -> None:
        for i in self.active:
            self.endings[i] = Ending(status, iteration)
        self.active = []

"""Block conjugate gradients: the state of one solve and its iteration."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor

from ihvp.methods import TerminationStatus
from solvers.blocks import gram, orthonormal_rows
from solvers.certificate import Ending, Tolerance
from solvers.checkpoint import (
    Checkpoints,
    SolverState,
    check_resume,
    endings_from,
    endings_to,
    identity_of,
)
from solvers.directions import FEWEST, Directions
from solvers.lanczos import smallest_eigenvalue
from solvers.preconditioners import Preconditioner
from solvers.rhs import starting_point
from solvers.system import LinearSystem

__all__ = ["BlockCg"]

CURVATURE_PROBES: Final = 30
"""Lanczos steps spent on the smallest eigenvalue once negative curvature was met."""
MARGIN: Final = 0.9
"""Share of the tolerance that the recurrence has to meet before the true residual is computed."""
PATIENCE: Final = 1000
"""Iterations without a smaller residual after which the iteration starts again from the true one."""
ACTIVE: Final = 1e-3
"""Share of a residual along a direction from which a right-hand side is active in it."""

REDUCED: Final = 1e-5
"""By how much products in float32 reduce a float64 residual before it is recomputed."""
CORRECT_AFTER: Final = 50
"""Iterations after which it is recomputed anyhow; where that finds it no smaller than half, float64 goes on."""
KEPT_SHARE: Final = 0.125
"""Part of the memory budget for the directions of a solve."""
KEPT_POINTS: Final = 0.3
"""Directions kept for each training point: conjugate to them costs a tenth of a product's operations."""


class BlockCg:
    """The right-hand sides that are still being worked on, and the block of directions that they share.

    ``X`` holds all k solutions. ``R`` holds the residuals of the active ones only, in the order of ``active``;
    ``P`` is an orthonormal basis ``[m, p]``, m ≤ the number of active ones, of the directions of the next step.

    Args:
        system: What is to be solved.
        x0: First iterate, or None.
        tolerance: When a right-hand side is solved.
        maxiter: Most iterations.
        preconditioner: What is solved with first, or None.

    Attributes:
        directions: What the solve has searched along, and what the operator made of it.
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
        k, p = system.rhs.shape
        self.norm_b = system.rhs.double().norm(dim=1).tolist()
        # The operator is never so well known that less than rtol·‖b‖ could be told apart from it.
        self.target = [max(tolerance.rtol * norm, tolerance.atol) for norm in self.norm_b]
        self.patience = max(20, min(p, PATIENCE))
        # Directions of the block that are closer to each other than this are one direction and rounding.
        self.threshold = 30 * torch.finfo(system.rhs.dtype).eps ** 0.75
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
        self.gamma: list[float] = [0.0] * k
        self.norms = self._measure()
        self.P = system.rhs[:0]
        self.precision = torch.float32 if system.single is not None else system.rhs.dtype
        self.level = list(self.norms)
        self.corrected = [0] * k
        self.directions = self._no_directions()

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
            self.P = self._directions(self._preconditioned())
        for iteration in range(begun + 1, self.maxiter + 1):
            if not self.active:
                return
            self._step(iteration)
            if checkpoints is not None and self.active and checkpoints.due():
                checkpoints.save(self._state(iteration))
            stop = self.system.report(iteration, self.maxiter, self._relative())
            if stop is not None:
                self._end_all(stop, iteration)
                return
        self._end_all(TerminationStatus.MaxIterations, self.maxiter)

    def _step(self, iteration: int) -> None:
        """One step of the block; ends what has no step to take, or has arrived."""
        P = self.P
        if P.shape[0] == 0:
            # Residuals that are left have directions, unless these overflowed.
            self._end_all(TerminationStatus.NonFinite, iteration)
            return
        Q = self._apply(P)
        curvature = gram(P, Q)
        curvature = (curvature + curvature.T) / 2
        along = gram(P, self.R)
        if not bool(curvature.isfinite().all()) or not bool(along.isfinite().all()):
            if not self._leave_single():
                self._end_all(TerminationStatus.NonFinite, iteration)
            return
        values, U = torch.linalg.eigh(curvature)
        # Below this the sign of the curvature is rounding.
        noise = 4 * torch.finfo(self.precision).eps * float(Q.norm(dim=1).max())
        if float(values[0]) <= noise:
            if self._leave_single():
                return
            self._end_without_step(iteration, values, U, along, noise)
            return
        inverse = (U / values) @ U.T
        alpha = (inverse @ along).T.to(Q)
        self.X[self.active] += alpha @ P
        self.R -= alpha @ Q
        self.directions.add(P, Q, inverse)
        self.norms = self._measure()
        self._settle(iteration)
        if self.active:
            # Conjugate by construction, whatever rounding or a corrected residual did to R.
            self.P = self._directions(self.directions.conjugate(self._preconditioned()))

    def _state(self, iteration: int) -> SolverState:
        """Everything that the next iteration depends on."""
        return SolverState(
            method=self.system.method.value,
            iteration=iteration,
            tensors={
                "X": self.X,
                "R": self.R,
                "P": self.P,
                **{f"best.{i}": x for i, x in self.best_x.items()},
                **{f"directions.{name}": t for name, t in self.directions.tensors().items()},
            },
            facts={
                **identity_of(self.system),
                "preconditioner": None if self.precondition is None else self.precondition.description,
                "precision": str(self.precision),
                "level": list(self.level),
                "corrected": list(self.corrected),
                "active": self.active,
                "gamma": self.gamma,
                "best": [b if math.isfinite(b) else None for b in self.best],
                "lowest": [b if math.isfinite(b) else None for b in self.lowest],
                "since_best": self.since_best,
                "endings": endings_to(self.endings),
            },
        )

    def _restore(self, state: SolverState) -> int:
        """Takes up a saved state; returns the iterations that were done."""
        check_resume(self.system, state)
        own, facts = "directions.", state.facts
        if self._in_single and facts.get("precision") == str(self.X.dtype):
            self.precision = self.X.dtype
            self.directions = self._no_directions()
        if facts.get("precision") == str(self.precision):
            self.directions.restore({n.removeprefix(own): t for n, t in state.tensors.items() if n.startswith(own)})
        self.level, self.corrected = (list(facts.get(name, getattr(self, name))) for name in ("level", "corrected"))
        tensors = {name: t.to(self.X) for name, t in state.tensors.items() if not name.startswith(own)}
        self.X, self.R, self.P = (tensors[name].clone() for name in ("X", "R", "P"))
        self.best_x = {int(name.removeprefix("best.")): t for name, t in tensors.items() if name.startswith("best.")}
        self.active = list(facts["active"])
        self.gamma = list(facts["gamma"])
        self.best, self.lowest = ([math.inf if b is None else b for b in facts[name]] for name in ("best", "lowest"))
        self.since_best = list(facts["since_best"])
        self.endings = endings_from(facts["endings"])
        self.norms = self._measure()
        return state.iteration

    def _no_directions(self) -> Directions:
        like = self.system.rhs.to(self.precision)[:0]
        return Directions(_most_directions(self.system, like.element_size()), like)

    @property
    def _in_single(self) -> bool:
        """Whether products are in float32 and residuals in float64."""
        return self.precision != self.X.dtype

    def _apply(self, V: Tensor) -> Tensor:
        single = self.system.single
        return single(V) if single is not None and self._in_single else self.system.operator(V)

    def _leave_single(self) -> bool:
        """Goes on with products in float64 from the true residuals, where float32 gets no further.

        Returns:
            False where products are in the system's own dtype already.
        """
        if not self._in_single:
            return False
        self.precision = self.X.dtype
        self.directions = self._no_directions()
        self.R = self.system.rhs[self.active] - self.system.operator(self.X[self.active])
        for i in self.active:
            self.lowest[i], self.since_best[i] = math.inf, 0
        self.norms = self._measure()
        self.P = self._directions(self._preconditioned())
        return True

    def _preconditioned(self) -> Tensor:
        return self.R if self.precondition is None else self.precondition(self.R)

    def _directions(self, Z: Tensor) -> Tensor:
        return orthonormal_rows(Z, self.threshold)

    def _measure(self) -> list[float]:
        norms: list[float] = torch.linalg.vector_norm(self.R, dim=1, dtype=torch.float64).tolist()
        for i, norm in zip(self.active, norms, strict=True):
            self.gamma[i] = norm * norm
        return norms

    def _end_without_step(self, iteration: int, values: Tensor, U: Tensor, along: Tensor, noise: float) -> None:
        """Ends the right-hand sides that are active where there is no step to take; the others start anew."""
        bad = values <= noise
        norms = torch.tensor(self.norms, dtype=torch.float64)
        share = (U[:, bad].T @ along).abs().amax(dim=0) / norms.clamp_min(torch.finfo(torch.float64).tiny)
        ended = (share > ACTIVE).tolist()
        if not any(ended):
            ended = [True] * len(self.active)
        lowest = float(values[0])
        status = TerminationStatus.NegativeCurvature if lowest < -noise else TerminationStatus.Breakdown
        direction = U[:, 0].to(self.P) @ self.P
        for i, ends in zip(self.active, ended, strict=True):
            if ends:
                self.endings[i] = Ending(
                    status,
                    iteration,
                    rayleigh_quotient=lowest,
                    suggested_perturbation=self._sufficient_damping(direction),
                    advice=SINGULAR if status is TerminationStatus.Breakdown else None,
                )
        self._keep([not ends for ends in ended])
        self.P = self._directions(self.directions.conjugate(self._preconditioned()))

    def _sufficient_damping(self, direction: Tensor) -> float:
        """A λ above the smallest eigenvalue of H as far as a few Lanczos steps show it; found once a solve."""
        if self.smallest is None:
            self.smallest = smallest_eigenvalue(self.system.operator, direction, CURVATURE_PROBES)
        below = self.system.largest_damping - self.smallest
        return 1.1 * below if below > 0 else max(2 * self.system.largest_damping, 1e-3)

    def _settle(self, iteration: int) -> None:
        """Ends what has met its tolerance by the true residual, or has stopped getting better."""
        done = []
        for j, (i, norm) in enumerate(zip(self.active, self.norms, strict=True)):
            self.since_best[i] = 0 if norm < self.lowest[i] else self.since_best[i] + 1
            self.lowest[i] = min(norm, self.lowest[i])
            if (
                self._is_to_be_corrected(i, norm, iteration)
                or norm <= MARGIN * self.target[i]
                or self.since_best[i] > self.patience
            ):
                done.append(j)
        if done:
            self._confirm(iteration, done)

    def _is_to_be_corrected(self, i: int, norm: float, iteration: int) -> bool:
        """Whether products in float32 have brought a residual as far as they may be trusted, or gone on for long."""
        return self._in_single and (norm <= REDUCED * self.level[i] or iteration - self.corrected[i] >= CORRECT_AFTER)

    def _confirm(self, iteration: int, positions: list[int]) -> None:
        rows = [self.active[j] for j in positions]
        residual, relative = self.system.residual(rows, self.X[rows])
        going_on, left = [True] * len(self.active), False
        for j, i, r, value in zip(positions, rows, residual, relative.tolist(), strict=True):
            if value * self.norm_b[i] <= self.target[i]:
                self.endings[i] = Ending(TerminationStatus.Converged, iteration, relative_residual=value)
                going_on[j] = False
            elif value < self.best[i] / 2:
                self.best[i], self.best_x[i] = value, self.X[i].clone()
                self.level[i], self.corrected[i] = value * self.norm_b[i], iteration
                self.lowest[i], self.since_best[i] = math.inf, 0
                self._take_up(j, r.to(self.R.dtype))
            elif self._in_single:
                left = True
            else:
                # A fresh start gained less than half: what is left is the rounding of the operator.
                best = min(value, self.best[i])
                if best < value:
                    self.X[i] = self.best_x[i]
                self.endings[i] = Ending(TerminationStatus.Stagnated, iteration, relative_residual=best)
                going_on[j] = False
        self._keep(going_on)
        self.norms = self._measure()
        if left:
            self._leave_single()

    def _take_up(self, j: int, residual: Tensor) -> None:
        """Goes on from a true residual, after what a step along the directions known so far takes off it."""
        step, taken = self.directions.project(residual[None])
        self.X[self.active[j]] += step[0]
        self.R[j] = residual - taken[0]

    def _keep(self, going_on: Sequence[bool]) -> None:
        if all(going_on):
            return
        chosen = [j for j, keep in enumerate(going_on) if keep]
        self.active = [self.active[j] for j in chosen]
        self.R = self.R[chosen]
        self.norms = [self.norms[j] for j in chosen]

    def _relative(self) -> list[float]:
        return [math.sqrt(g) / norm if norm else 0.0 for g, norm in zip(self.gamma, self.norm_b, strict=True)]

    def _end_all(self, status: TerminationStatus, iteration: int) -> None:
        for i in self.active:
            self.endings[i] = Ending(status, iteration)
        self.active = []


def _most_directions(system: LinearSystem, size: int) -> int:
    """How many directions to keep: as memory allows, and so that using them is cheap beside a product."""
    k, p = system.rhs.shape
    room = int(KEPT_SHARE * system.problem.memory_budget) // (2 * p * size)
    # A block of rows goes through the caches together; a single row reads all directions for itself.
    together = min(1.0, max(0.25, k / 8))
    return min(room, p, max(FEWEST, int(KEPT_POINTS * together * system.problem.num_points)))


SINGULAR: Final = (
    "H + λI is singular to working precision along a search direction. Raise hessian_perturbation, "
    "or use direct, which finds the least-norm solution where there is one."
)

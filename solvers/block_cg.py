"""Block conjugate gradients: the state of one solve and its iteration."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import torch
from torch import Tensor

from ihvp.methods import TerminationStatus
from solvers.blocks import gram, orthonormal_rows
from solvers.certificate import Ending, Tolerance
from solvers.directions import FEWEST, Directions
from solvers.krylov_iteration import KrylovIteration
from solvers.lanczos import smallest_eigenvalue
from solvers.mixed_precision import MixedPrecision
from solvers.preconditioners import Preconditioner
from solvers.system import LinearSystem

__all__ = ["BlockCg"]

CURVATURE_PROBES: Final = 30
"""Lanczos steps spent on the smallest eigenvalue once negative curvature was met."""
ACTIVE: Final = 1e-3
"""Share of a residual along a direction from which a right-hand side is active in it."""
KEPT_SHARE: Final = 0.125
"""Part of the memory budget for the directions of a solve."""
KEPT_POINTS: Final = 0.3
"""Directions kept for each training point: conjugate to them costs a tenth of a product's operations."""
SLOW: Final = 10
"""Iterations that may go by without a residual half as large before it is asked whether it is rounding."""
SPENT: Final = 0.5
"""Share of a residual along earlier directions, which have taken all they could, from which on it is rounding."""
KEPT: Final = "directions."
"""Before the names of the kept directions in a saved state."""
SINGULAR: Final = (
    "H + λI is singular to working precision along a search direction. Raise hessian_perturbation, "
    "or use direct, which finds the least-norm solution where there is one."
)


class BlockCg(KrylovIteration):
    """Conjugate gradients with one block of directions that all right-hand sides share.

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
        super().__init__(system, x0, tolerance, maxiter, preconditioner)
        # Directions of the block that are closer to each other than this are one direction and rounding.
        self.threshold = 30 * torch.finfo(system.rhs.dtype).eps ** 0.75
        self.smallest: float | None = None
        self.products = MixedPrecision(system, self.norms)
        self.directions = self._no_directions()
        self.P = system.rhs[:0]
        self.halved = [math.inf] * system.rhs.shape[0]
        self.since_halved = [0] * system.rhs.shape[0]

    @property
    def gamma(self) -> list[float]:
        """‖r‖² of each right-hand side as the iteration had it last."""
        return [norm * norm for norm in self.residuals]

    def _start(self) -> None:
        if self.active:
            self._turn()

    def _step(self, iteration: int) -> None:
        self._advance(iteration)
        if self.active:
            self._turn()

    def _turn(self) -> None:
        """Makes the directions of the next step."""
        # Conjugate by construction, whatever rounding or a corrected residual did to R.
        Z = self.directions.conjugate(self._preconditioned(self.R))
        self.P = orthonormal_rows(Z, self.threshold)

    def _advance(self, iteration: int) -> None:
        """Goes along the block of directions; ends what has no step to take, or has arrived."""
        P = self.P
        if P.shape[0] == 0:
            # Residuals that are left have directions, unless these overflowed.
            self._end_all(TerminationStatus.NonFinite, iteration)
            return
        Q = self.products(P)
        curvature = gram(P, Q)
        curvature = (curvature + curvature.T) / 2
        along = gram(P, self.R)
        if not bool(curvature.isfinite().all()) or not bool(along.isfinite().all()):
            if self.products.in_single:
                self._leave_single()
            else:
                self._end_all(TerminationStatus.NonFinite, iteration)
            return
        values, U = torch.linalg.eigh(curvature)
        # Below this the sign of the curvature is rounding.
        noise = 4 * torch.finfo(self.products.dtype).eps * float(Q.norm(dim=1).max())
        if float(values[0]) <= noise:
            if self.products.in_single:
                self._leave_single()
            else:
                self._end_without_step(iteration, values, U, along, noise)
            return
        inverse = (U / values) @ U.T
        alpha = (inverse @ along).T.to(Q)
        self.X[self.active] += alpha @ P
        self.R -= alpha @ Q
        self.directions.add(P, Q, inverse)
        self._measure()
        self._settle(iteration)

    def _tensors(self) -> dict[str, Tensor]:
        kept = {f"{KEPT}{name}": tensor for name, tensor in self.directions.tensors().items()}
        return {**super()._tensors(), "P": self.P, **kept}

    def _facts(self) -> dict[str, Any]:
        description = None if self.precondition is None else self.precondition.description
        slow = {
            "halved": [norm if math.isfinite(norm) else None for norm in self.halved],
            "since_halved": self.since_halved,
        }
        return {**super()._facts(), "preconditioner": description, **slow, **self.products.facts()}

    def _restore(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        super()._restore(tensors, facts)
        self.P = tensors["P"].to(self.X).clone()
        k = len(self.halved)
        # A state that was saved before these were kept has none.
        self.halved = [math.inf if norm is None else norm for norm in facts.get("halved", [None] * k)]
        self.since_halved = list(facts.get("since_halved", [0] * k))
        same = self.products.restore(facts)
        self.directions = self._no_directions()
        if same:
            self.directions.restore({n.removeprefix(KEPT): t for n, t in tensors.items() if n.startswith(KEPT)})

    def _no_directions(self) -> Directions:
        like = self.system.rhs.to(self.products.dtype)[:0]
        return Directions(_most_directions(self.system, like.element_size()), like)

    def _leave_single(self) -> None:
        """Goes on with products in float64 from the true residuals, where float32 gets no further."""
        self.products.leave_single()
        self.directions = self._no_directions()
        self.R = self.system.rhs[self.active] - self.system.operator(self.X[self.active])
        for i in self.active:
            self._forget_lowest(i)
        self._measure()

    def _end_without_step(self, iteration: int, values: Tensor, U: Tensor, along: Tensor, noise: float) -> None:
        """Ends the right-hand sides that are active where there is no step to take; the others go on without them."""
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

    def _sufficient_damping(self, direction: Tensor) -> float:
        """A λ above the smallest eigenvalue of H as far as a few Lanczos steps show it; found once a solve."""
        if self.smallest is None:
            self.smallest = smallest_eigenvalue(self.system.operator, direction, CURVATURE_PROBES)
        below = self.system.largest_damping - self.smallest
        return 1.1 * below if below > 0 else max(2 * self.system.largest_damping, 1e-3)

    def _forget_lowest(self, i: int) -> None:
        super()._forget_lowest(i)
        self.halved[i], self.since_halved[i] = math.inf, 0

    def _looked_at(self, j: int, iteration: int) -> bool:
        return self.products.is_due(self.active[j], self.norms[j], iteration) or self._is_spent(j)

    def _is_spent(self, j: int) -> bool:
        """Whether a residual that gets no smaller is one that no direction takes anything off any more.

        In exact arithmetic a residual is orthogonal to all directions so far. What lies in their span is rounding
        of the products; made conjugate to them nothing is left of it but noise, and steps along noise go on for ever.
        """
        i, norm = self.active[j], self.norms[j]
        if norm < self.halved[i] / 2:
            self.halved[i], self.since_halved[i] = norm, 0
            return False
        self.since_halved[i] += 1
        return self.since_halved[i] % SLOW == 0 and self.directions.share(self.R[j]) > SPENT

    def _confirm(self, iteration: int, positions: Sequence[int]) -> list[int]:
        rows = [self.active[j] for j in positions]
        again = super()._confirm(iteration, positions)
        if any(i not in self.endings and i not in again for i in rows):
            self._leave_single()
        return again

    def _take_up(self, j: int, residual: Tensor, iteration: int) -> None:
        """Goes on from a true residual, after what a step along the directions known so far takes off it."""
        i = self.active[j]
        self.products.corrected(i, self.best[i] * self.norm_b[i], iteration)
        step, taken = self.directions.project(residual[None])
        self.X[i] += step[0]
        self.R[j] = residual - taken[0]

    def _failure(self, j: int, value: float) -> tuple[TerminationStatus, str | None] | None:  # noqa: ARG002
        if self.products.in_single:
            return None
        return TerminationStatus.Stagnated if math.isfinite(value) else TerminationStatus.NonFinite, None


def _most_directions(system: LinearSystem, size: int) -> int:
    """How many directions to keep: as memory allows, and so that using them is cheap beside a product."""
    k, p = system.rhs.shape
    room = int(KEPT_SHARE * system.problem.memory_budget) // (2 * p * size)
    # A block of rows goes through the caches together; a single row reads all directions for itself.
    together = min(1.0, max(0.25, k / 8))
    return min(room, p, max(FEWEST, int(KEPT_POINTS * together * system.problem.num_points)))

"""What block conjugate gradients and MINRES share: the loop, and how a right-hand side ends by its true residual."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final

import torch
from torch import Tensor

from ihvp.methods import TerminationStatus
from solvers.certificate import Ending, Tolerance
from solvers.checkpoint import Checkpoints, SolverState, check_resume, endings_from, endings_to, identity_of
from solvers.preconditioners import Preconditioner
from solvers.rhs import starting_point
from solvers.system import LinearSystem

__all__ = ["KrylovIteration"]

MARGIN: Final = 0.9
"""Share of the tolerance that the recurrence has to meet before the true residual is computed."""
PATIENCE: Final = 1000
"""Iterations without a residual that is smaller, after which the true one is looked at."""
BEST: Final = "best."
"""Before the number of a right-hand side, the name of its best iterate in a saved state."""


class KrylovIteration(ABC):
    """The state of one solve by a method that updates residuals, and its iteration.

    ``X`` holds all k solutions ``[k, p]``. ``R`` holds the residuals of the active ones only, in the order of
    ``active``, as the method's recurrence has them. A right-hand side ends after its residual was recomputed with the
    true operator; where that misses the tolerance the method goes on from it, for as long as that halves it.

    Args:
        system: What is to be solved.
        x0: First iterate ``[p]`` or ``[k, p]``, or None.
        tolerance: When a right-hand side is solved.
        maxiter: Most iterations.
        preconditioner: What is solved with first, or None.

    Attributes:
        endings: How each right-hand side has ended, by its number.
        residuals: ‖r‖ of each as the iteration had it last.
    """

    smaller: ClassVar[float] = 1.0
    """Share of the lowest norm so far below which a residual counts as a smaller one."""

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
        self.active = list(range(k))
        self.endings: dict[int, Ending] = {}
        self.best = [math.inf] * k
        self.best_x: dict[int, Tensor] = {}
        self.lowest = [math.inf] * k
        self.since_lowest = [0] * k
        if x0 is None:
            self.X = torch.zeros_like(system.rhs)
            self.R = system.rhs.clone()
        else:
            self.X = starting_point("x0", x0, system.rhs)
            self.R = system.rhs - system.operator(self.X)
        self.residuals = [0.0] * k
        self.norms: list[float] = []
        self._measure()

    def run(self, checkpoints: Checkpoints | None = None) -> None:
        """Iterates until every right-hand side has ended.

        Args:
            checkpoints: Where the state is saved between iterations, and found again.

        Raises:
            InvalidInput: The saved state belongs to another solve.
        """
        begun = 0
        if checkpoints is not None and checkpoints.resume is not None:
            check_resume(self.system, checkpoints.resume)
            self._restore(checkpoints.resume.tensors, checkpoints.resume.facts)
            begun = checkpoints.resume.iteration
        else:
            self._settle(0)
            self._start()
        for iteration in range(begun + 1, self.maxiter + 1):
            if not self.active:
                return
            self._step(iteration)
            if checkpoints is not None and self.active and checkpoints.due():
                tensors, facts = self._tensors(), {**identity_of(self.system), **self._facts()}
                checkpoints.save(SolverState(self.system.method.value, iteration, tensors, facts))
            relative = [r / norm if norm else 0.0 for r, norm in zip(self.residuals, self.norm_b, strict=True)]
            stop = self.system.report(iteration, self.maxiter, relative)
            if stop is not None:
                self._end_all(stop, iteration)
                return
        self._end_all(TerminationStatus.MaxIterations, self.maxiter)

    @abstractmethod
    def _start(self) -> None:
        """Makes what the first step needs; some right-hand sides, or all, may have ended."""

    @abstractmethod
    def _step(self, iteration: int) -> None:
        """One step: new ``X`` and ``R``, measured and settled."""

    @abstractmethod
    def _looked_at(self, j: int, iteration: int) -> bool:
        """Whether the true residual at a place of ``active`` is wanted for reasons of the method's own."""

    @abstractmethod
    def _take_up(self, j: int, residual: Tensor, iteration: int) -> None:
        """Goes on from the true residual at a place of ``active``."""

    @abstractmethod
    def _failure(self, j: int, value: float) -> tuple[TerminationStatus, str | None] | None:
        """How a right-hand side ends whose relative residual has become no smaller than half; None to go on."""

    def _forget_lowest(self, i: int) -> None:
        """Has what comes next judged by itself, not by how small a right-hand side's residual seemed before."""
        self.lowest[i], self.since_lowest[i] = math.inf, 0

    def _may_go_on(self, j: int) -> bool:  # noqa: ARG002 - a method that cannot looks at it
        """Whether a true residual at a place of ``active`` can be gone on from at all."""
        return True

    def _tensors(self) -> dict[str, Tensor]:
        """All tensors that the next iteration depends on."""
        return {"X": self.X, "R": self.R, **{f"{BEST}{i}": x for i, x in self.best_x.items()}}

    def _facts(self) -> dict[str, Any]:
        """Everything else that it depends on; JSON-ready."""
        return {
            "active": self.active,
            "residuals": self.residuals,
            "best": [b if math.isfinite(b) else None for b in self.best],
            "lowest": [b if math.isfinite(b) else None for b in self.lowest],
            "since_lowest": self.since_lowest,
            "endings": endings_to(self.endings),
        }

    def _restore(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Takes up a saved state of this solve."""
        like = self.X
        self.X, self.R = (tensors[name].to(like).clone() for name in ("X", "R"))
        self.best_x = {int(n.removeprefix(BEST)): x.to(like) for n, x in tensors.items() if n.startswith(BEST)}
        self.active, self.residuals = list(facts["active"]), list(facts["residuals"])
        self.best, self.lowest = ([math.inf if b is None else b for b in facts[name]] for name in ("best", "lowest"))
        self.since_lowest = list(facts["since_lowest"])
        self.endings = endings_from(facts["endings"])
        self._measure()

    def _preconditioned(self, R: Tensor) -> Tensor:
        return R if self.precondition is None else self.precondition(R)

    def _measure(self) -> None:
        self.norms = torch.linalg.vector_norm(self.R, dim=1, dtype=torch.float64).tolist()
        for i, norm in zip(self.active, self.norms, strict=True):
            self.residuals[i] = norm

    def _settle(self, iteration: int) -> None:
        """Recomputes the residual of what has met its tolerance by the recurrence, or has stopped getting better."""
        done = []
        for j, (i, norm) in enumerate(zip(self.active, self.norms, strict=True)):
            self.since_lowest[i] = 0 if norm < self.smaller * self.lowest[i] else self.since_lowest[i] + 1
            self.lowest[i] = min(norm, self.lowest[i])
            weary = self.since_lowest[i] > self.patience
            if norm <= MARGIN * self.target[i] or weary or self._looked_at(j, iteration):
                done.append(j)
        if done:
            self._confirm(iteration, done)

    def _confirm(self, iteration: int, positions: Sequence[int]) -> list[int]:
        """Recomputes residuals at places of ``active``; ends what meets its tolerance, or gains nothing any more.

        Returns:
            The right-hand sides that go on from their true residuals.
        """
        rows = [self.active[j] for j in positions]
        residual, relative = self.system.residual(rows, self.X[rows])
        again = []
        for j, i, r, value in zip(positions, rows, residual, relative.tolist(), strict=True):
            if value * self.norm_b[i] <= self.target[i]:
                self.endings[i] = Ending(TerminationStatus.Converged, iteration, relative_residual=value)
            elif value < self.best[i] / 2 and self._may_go_on(j):
                self.best[i], self.best_x[i] = value, self.X[i].clone()
                self._forget_lowest(i)
                self._take_up(j, r.to(self.R.dtype), iteration)
                again.append(i)
            elif (failure := self._failure(j, value)) is not None:
                # A fresh start gained less than half: what is left is the rounding of the operator.
                status, advice = failure
                best = self._back_to_best(i, value)
                self.endings[i] = Ending(status, iteration, advice, relative_residual=best)
        self._keep([i not in self.endings for i in self.active])
        self._measure()
        return again

    def _back_to_best(self, i: int, value: float) -> float | None:
        """Puts the best iterate known in place of one that is no better.

        Args:
            i: A right-hand side.
            value: The relative residual of its last iterate.

        Returns:
            The relative residual of what is in place now; None where it is not finite.
        """
        if i in self.best_x and not value <= self.best[i]:
            self.X[i] = self.best_x[i]
            return self.best[i]
        return value if math.isfinite(value) else None

    def _keep(self, going_on: Sequence[bool]) -> None:
        if all(going_on):
            return
        chosen = [j for j, keep in enumerate(going_on) if keep]
        self.active = [self.active[j] for j in chosen]
        self.R = self.R[chosen]
        self.norms = [self.norms[j] for j in chosen]
        self.best_x = {i: x for i, x in self.best_x.items() if i in self.active}

    def _end_all(self, status: TerminationStatus, iteration: int) -> None:
        """Ends all that are left, each at its last iterate or at an earlier one that is known to be better."""
        found: dict[int, float | None] = {}
        if again := [i for i in self.active if i in self.best_x]:
            values = self.system.residual(again, self.X[again])[1].tolist()
            found = {i: self._back_to_best(i, value) for i, value in zip(again, values, strict=True)}
        for i in self.active:
            self.endings[i] = Ending(status, iteration, relative_residual=found.get(i))
        self.active = []

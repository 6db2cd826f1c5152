"""Which method is cheapest for a problem, counted in Hessian-vector products, and why."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from ihvp.methods import METHODS, Curvature, InversionMethod, dense_hessian_bytes
from solvers.methods.cg import BLOCK_GAIN
from solvers.preconditioners.choice import DEFAULT_RANK

if TYPE_CHECKING:
    from solvers.spectrum_probe import SpectrumProbe
    from solvers.system import LinearSystem

__all__ = ["Candidate", "Choice"]

LESS_RANDOM: Final = 2.0
"""Gradients take about twice the iterations of the random vector that the probe starts from."""
PRECONDITIONED: Final = 0.5
"""Share of the iterations that a sketch of the default rank, or an earlier solve, was measured to leave."""
INDEFINITE_ITERATIONS: Final = 300
"""Nothing in a short probe tells how long minres takes; so it yields to a factorisation of a small problem only."""
WORK_OF_A_PRODUCT: Final = 12.0
"""Operations for each parameter and point; counted and not timed, so that the choice stays the same."""


@dataclass(frozen=True)
class Candidate:
    """A method with its options, and what it is predicted to cost.

    Attributes:
        method: The method.
        options: Options beside those that all methods share.
        products: Cost in Hessian-vector products; infinite where it cannot be used.
        why: What the prediction rests on, or why it cannot be used.
        fallback: Whether it is kept for the case that all others miss.
    """

    method: InversionMethod
    products: float
    why: str
    options: dict[str, Any] = field(default_factory=dict)
    fallback: bool = False

    @property
    def takes(self) -> set[str]:
        """Names of the options that the method has."""
        return set(METHODS[self.method].options.model_fields)

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {"method": self.method.value, **self.options}


class Choice:
    """Ranks the candidates for one system.

    Args:
        system: What is to be solved.
        probe: What is known of the spectrum of H.
        rtol: The tolerance.
        maxiter: Most iterations, or None.
    """

    def __init__(self, system: LinearSystem, probe: SpectrumProbe, rtol: float, maxiter: int | None) -> None:
        self._system = system
        self._probe = probe
        self._p, self._k = system.operator.size, system.rhs.shape[0]
        least = min(system.parameter_damping)
        self._shifted = probe.smallest + least
        self._definite = self._shifted > 0
        single = LESS_RANDOM * probe.iterations(least, rtol)
        self._iterations = min(single * self._k**-BLOCK_GAIN, self._p, maxiter or math.inf)
        self.candidates = [self._direct(), self._cg(), self._nystrom(), self._minres()]

    def order(self) -> list[Candidate]:
        """The usable ones, cheapest first."""
        usable = [c for c in self.candidates if math.isfinite(c.products)]
        return sorted(usable, key=lambda c: (c.fallback, c.products))

    def first_to_stop(self) -> Candidate:
        """What certifies x = 0 where a stop came before a choice could be made."""
        return Candidate(InversionMethod.Cg, 0.0, "stopped while probing")

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        order = self.order()
        return {
            "probe": self._probe.as_dict(),
            "candidates": [
                {**c.as_dict(), "products": c.products if math.isfinite(c.products) else None, "why": c.why}
                for c in [*order, *(c for c in self.candidates if c not in order)]
            ],
            "why": order[0].why if order else "nothing fits",
        }

    def _direct(self) -> Candidate:
        problem, p = self._system.problem, self._p
        needed = dense_hessian_bytes(p, str(problem.dtype).removeprefix("torch."))
        if needed > problem.memory_budget:
            return Candidate(InversionMethod.Direct, math.inf, f"a dense Hessian needs {needed} bytes")
        factorisation = p**3 / 3 / (WORK_OF_A_PRODUCT * problem.num_points * p)
        kept = self._is_kept("dense")
        # Bought once renting has cost as much: at most twice the best in hindsight, however many solves follow
        # (Karlin, Manasse, Rudolph & Sleator, 1988).
        spent = min(p, problem.products_spent)
        products = (0 if kept else p - spent) + factorisation
        if kept:
            why = "the dense Hessian is kept from an earlier solve"
        elif spent:
            why = f"p = {p} products and a factorisation serve all later solves; earlier ones took {spent:.0f} without"
        else:
            why = f"p = {p} products and a factorisation"
        return Candidate(InversionMethod.Direct, products, why)

    def _cg(self) -> Candidate:
        if not self._definite:
            return Candidate(InversionMethod.Cg, math.inf, self._indefinite())
        known = not self._system.problem.recycled.is_empty
        iterations = self._iterations * (PRECONDITIONED if known else 1.0)
        why = f"H + λI looks positive definite: about {iterations:.0f} iterations of {self._k} products"
        if known:
            why += ", from what earlier solves have shown"
        return Candidate(InversionMethod.Cg, self._k * iterations, why)

    def _nystrom(self) -> Candidate:
        rank = max(1, min(DEFAULT_RANK, self._p // 2))
        options = {"preconditioner": "nystrom"}
        if not self._definite:
            return Candidate(InversionMethod.Cg, math.inf, self._indefinite(), options)
        if not self._system.has_one_damping or min(self._system.parameter_damping) <= 0:
            return Candidate(InversionMethod.Cg, math.inf, "a sketch needs one λ > 0", options)
        kept = self._is_kept("nystrom")
        iterations = PRECONDITIONED * self._iterations
        products = (0 if kept else rank) + self._k * iterations
        sketch = "a sketch is kept" if kept else f"{rank} products for a sketch"
        why = f"{sketch}, then about {iterations:.0f} iterations of {self._k} products"
        return Candidate(InversionMethod.Cg, products, why, options)

    def _minres(self) -> Candidate:
        if self._system.problem.curvature is not Curvature.Hessian:
            return Candidate(InversionMethod.Minres, math.inf, "this curvature has no negative eigenvalues")
        iterations = min(INDEFINITE_ITERATIONS, self._p)
        return Candidate(
            InversionMethod.Minres,
            self._k * iterations,
            # On a definite system, what is left when cg meets negative curvature that the probe has not seen.
            "takes H + λI that is not positive definite",
            fallback=self._definite,
        )

    def _is_kept(self, kind: str) -> bool:
        return any(key.startswith(kind) for key in self._system.problem.kept_factors())

    def _indefinite(self) -> str:
        return f"H + λI has an eigenvalue near {self._shifted:.3g}"

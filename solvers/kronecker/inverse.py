"""The inverse of Kronecker-factored curvature + λI for one system, as an approximate solution or a preconditioner."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor

from ihvp.methods import TerminationStatus
from ihvp.perturbation import check_positive
from solvers.kronecker.columns import Kind, Statistics, statistics_for
from solvers.kronecker.estimates import correct_eigenvalues, estimate_factors
from solvers.kronecker.factor import KroneckerFactor
from solvers.kronecker.layers import Layer
from solvers.kronecker.sweep import OnPoints, Sweep

if TYPE_CHECKING:
    from solvers.problem import Problem
    from solvers.system import LinearSystem

__all__ = ["Factoring", "KroneckerInverse", "kronecker_inverse"]

Factoring = Literal["kfac", "ekfac"]


class KroneckerInverse:
    """(F + λI)⁻¹ with F block-diagonal over layers: symmetric positive definite for λ > 0.

    Args:
        system: Gives λ.
        factor: F.
        kind: How F was made.
        statistics: The gradients it was made of.
    """

    def __init__(self, system: LinearSystem, factor: KroneckerFactor, kind: Factoring, statistics: Statistics) -> None:
        self.statistics = statistics
        self._snapshot = system.problem.snapshot
        self._damping = system.parameter_damping
        self._factor = factor.to(self._snapshot.device)
        self._kind = kind

    @property
    def layers(self) -> dict[str, str]:
        """``kronecker`` or ``diagonal`` for each parameter, by name."""
        return self._factor.kinds(self._snapshot.names)

    @property
    def description(self) -> dict[str, Any]:
        """Kind, number of layers and of parameters outside them, statistics; JSON-ready."""
        return {
            "kind": self._kind,
            "layers": len(self._factor.blocks),
            "diagonal_parameters": len(self._factor.diagonal),
            "statistics": self.statistics.used,
        }

    def __call__(self, R: Tensor) -> Tensor:
        """Applies it to each row of ``R`` ``[k, p]``; never changes ``R``."""
        return self._factor.solve(self._snapshot, self._damping, R)


def kronecker_inverse(
    system: LinearSystem, kind: Factoring, *, statistics: Kind = "type2", seed: int = 0
) -> tuple[KroneckerInverse | None, TerminationStatus | None]:
    """The inverse for a system, from factors of an earlier solve or made now; else why it was stopped.

    The factors of ``ekfac`` are those of ``kfac`` with other eigenvalues, so each serves the other. Progress is
    told in points gone through.

    Args:
        system: What is to be solved.
        kind: Which of the two.
        statistics: Which gradients; see :class:`ihvp.methods.KfacOptions`.
        seed: Draws targets.

    Raises:
        InvalidOption: λ is 0 somewhere, or the loss does not go with the statistics.
        LossMismatch: The loss is not convex in the outputs.
    """
    check_positive(kind, system.perturbation, system.parameter_damping)
    problem = system.problem
    chosen = statistics_for(problem, statistics, seed)
    passes = 1 if kind == "kfac" else 2
    stops: list[TerminationStatus] = []

    def reporter(done_before: int) -> OnPoints:
        def report(points: int) -> bool:
            most = passes * problem.num_points
            stop = system.report(done_before + points, most, [1.0] * system.rhs.shape[0])
            if stop is not None:
                stops.append(stop)
            return stop is not None

        return report

    def make() -> KroneckerFactor | None:
        parameters = problem.snapshot.parameters
        sweep = Sweep(problem, chosen, reporter(0))
        factor = sweep.whole(lambda sweep: estimate_factors(sweep, parameters))
        system.note_shortage("Kronecker factors", sweep.shortage)
        return factor

    def make_corrected() -> KroneckerFactor | None:
        factor = system.factor(f"kfac {chosen.key}", KroneckerFactor, make)
        if factor is None:
            return None
        uncorrected = factor.to(problem.device)
        sweep = Sweep(problem, chosen, reporter(problem.num_points), _layers(factor, problem))
        corrected = sweep.whole(lambda sweep: correct_eigenvalues(sweep, uncorrected))
        system.note_shortage("corrected eigenvalues", sweep.shortage)
        return corrected

    maker = make if kind == "kfac" else make_corrected
    factor = system.factor(f"{kind} {chosen.key}", KroneckerFactor, maker)
    if factor is None:
        return None, stops[-1]
    return KroneckerInverse(system, factor, kind, chosen), None


def _layers(factor: KroneckerFactor, problem: Problem) -> list[Layer]:
    """The layers that a factor was made for."""
    parameters = problem.snapshot.parameters
    return [
        Layer(b.weight, b.bias, "convolution" if parameters[b.weight].ndim == 4 else "linear") for b in factor.blocks
    ]

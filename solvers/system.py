"""One solve from its arguments to its result: what all methods on PyTorch models share."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from ihvp.methods import InversionMethod, TerminationStatus, default_rtol, parse_options
from solvers.certificate import Certificate, Ending, Tolerance, issue
from solvers.damping import Damping, Perturbation
from solvers.factors import Factor
from solvers.operators.curvature import CurvatureOperator
from solvers.operators.damped import DampedOperator
from solvers.operators.single import SingleOperator
from solvers.problem import Problem
from solvers.progress import Callback, Monitor
from solvers.result import InverseHvpResult
from solvers.rhs import check_rhs
from solvers.snapshot import flat_names, trainable_parameters
from solvers.spectrum_probe import probe_spectrum
from solvers.torch_model import TorchTwiceDifferentiable

__all__ = ["LinearSystem", "checked_options"]

F = TypeVar("F", bound=Factor)

CERTIFIED_AT_ONCE = 16
"""Rows whose residuals are held in float64 at a time."""
CHECKS = 2
"""Products of each right-hand side in float64 where the others are in float32."""
PROBES = 100
"""Most products spent on the spectrum where λ is to be chosen."""


def checked_options(method: InversionMethod, **options: Any) -> dict[str, Any]:
    """The options as given, after the checks that the service makes of them too.

    Raises:
        InvalidOption: A value has the wrong type or lies outside its range.
    """
    parse_options(method, options)
    return options


class LinearSystem:
    """(H + λI) x = b, checked and ready to be solved by one method.

    Args:
        method: The method that solves it.
        model: The model and its loss.
        training_data: Batches, or a :class:`Problem` of the same model.
        b: ``[p]`` or ``[k, p]``.
        hessian_perturbation: λ, λ by patterns over parameter names, or ``auto`` for the smallest λ that makes
            H + λI safely positive definite.
        options: The method's options for ``info``.
        expected_products: About how many products the method will need, for the choice of a strategy.
        each_rhs: Whether that many are needed for each right-hand side; else altogether.
        rows: Vectors in a block of products; the number of right-hand sides if left out.
        single_precision: Whether the method can do with products in float32 where the system is in float64.
        check: Refuses a λ that the method cannot do with, before the data are gone through; and one that was chosen.
        callback: Called once an iteration.
        progress: Whether to draw a progress bar.

    Attributes:
        rhs: b as rows ``[k, p]`` in the model's dtype and on its device.
        operator: H + Λ, where Λ is λI unless λ was given by parameter.
        single: The same with products in float32, where the method can do with it and it pays; else None.
        monitor: Tells the callback.
    """

    def __init__(
        self,
        method: InversionMethod,
        model: TorchTwiceDifferentiable,
        training_data: Iterable[Any],
        b: Tensor,
        hessian_perturbation: Perturbation,
        *,
        options: Mapping[str, Any],
        expected_products: int,
        each_rhs: bool = True,
        rows: int | None = None,
        single_precision: bool = False,
        check: Callable[[Damping], None] | None = None,
        callback: Callback | None = None,
        progress: bool = False,
    ) -> None:
        self.method = method
        known = flat_names(model.model)
        names = [known[name] for name, _ in trainable_parameters(model.model)]
        self._chosen: dict[str, Any] | None = None
        automatic = isinstance(hessian_perturbation, str) and hessian_perturbation == "auto"
        self._damping = Damping.of(0.0 if automatic else hessian_perturbation, names)
        if check is not None and not automatic:
            check(self._damping)
        self._b = b
        self._given = check_rhs(b, model.num_params)
        started = time.perf_counter()
        self.problem = Problem.of(model, training_data)
        self.rhs = self._given.to(self.problem.device, self.problem.dtype)
        k = self.rhs.shape[0]
        expected = expected_products * (k if each_rhs else 1)
        self._hessian, self._single_hessian = self._operators(expected, rows or k, single_precision)
        self.operator = DampedOperator(self._hessian, self._damping.diagonal(self.problem.snapshot.parameters))
        self.monitor = Monitor(method.value, callback, progress)
        self._options = dict(options)
        self._done_before = self._products_done
        self._extra_products = 0.0
        self._factors: dict[str, str] = {}
        self._shortage: list[str] = []
        if automatic:
            self._choose_damping(names)
            if check is not None:
                check(self._damping)
        self.single: SingleOperator | None = None
        if self._single_hessian is not None:
            self.single = SingleOperator(self._single_hessian, self.operator)
        self._timings = {"linearise": time.perf_counter() - started}
        self._solving_since = time.perf_counter()

    def _operators(
        self, expected: int, rows: int, single_precision: bool
    ) -> tuple[CurvatureOperator, CurvatureOperator | None]:
        """H, and H with products in float32 where that is asked for and pays."""
        twin = self.problem.single_precision() if single_precision else None
        if twin is None:
            return self.problem.hessian(expected, rows), None
        # Those in float64 then only check and correct.
        return self.problem.hessian(CHECKS * self.rhs.shape[0], rows), twin.hessian(expected, rows)

    def _choose_damping(self, names: Sequence[str]) -> None:
        probe, _ = probe_spectrum(self, PROBES, seed=0)
        damping = probe.safe_perturbation(self.problem.dtype)
        self._chosen = {"chosen": damping, **probe.as_dict()}
        self._damping = Damping.of(damping, names)
        self.operator = DampedOperator(self._hessian, damping)

    @property
    def perturbation(self) -> float | dict[str, float]:
        """λ as it is used: one number, or numbers by pattern; JSON-ready."""
        return self._damping.perturbation

    @property
    def chosen_perturbation(self) -> dict[str, Any]:
        """How λ was chosen, for ``info``; empty where it was given."""
        return {} if self._chosen is None else {"auto_perturbation": self._chosen}

    @property
    def _shortages(self) -> dict[str, Any]:
        found = self.problem.shortage + self._shortage
        return {"out_of_memory": found} if found else {}

    @property
    def parameter_damping(self) -> tuple[float, ...]:
        """λ of each trainable parameter, in their order."""
        return self._damping.of_parameters

    @property
    def largest_damping(self) -> float:
        """The largest λ of all parameters: what advice to raise λ for all of them starts from."""
        return self._damping.largest

    @property
    def damping(self) -> float:
        """The λ that all parameters share, for methods that know H + λI only.

        Raises:
            InvalidOption: λ differs between parameters.
        """
        return self._damping.one_for(self.method.value)

    @property
    def has_one_damping(self) -> bool:
        """Whether all parameters share one λ."""
        return self._damping.scalar is not None

    def raised_perturbation(self, by: float) -> float | dict[str, float]:
        """λ with as much added for every parameter; JSON-ready."""
        return self._damping.raised(by)

    @property
    def hvps(self) -> float:
        """Hessian-vector products done in this solve, in passes over all points."""
        return self._products_done - self._done_before + self._extra_products

    @property
    def _products_done(self) -> float:
        single = 0.0 if self._single_hessian is None else self._single_hessian.products_done
        return self._hessian.products_done + single

    def tolerance(self, rtol: float | None, atol: float = 0.0) -> Tolerance:
        """What a method is asked for; a relative tolerance that is left out is the one of the dtype."""
        dtype = str(self.problem.dtype).removeprefix("torch.")
        return Tolerance(default_rtol(dtype) if rtol is None else rtol, atol)

    def factor(self, key: str, kind: type[F], make: Callable[[], F | None], *, lasting: bool = True) -> F | None:
        """A sketch or factorisation, kept by the problem from an earlier solve or made now.

        Args:
            key: What it is and all that it depends on beside the problem: rank, seed, …; not λ, not b.
            kind: Its class.
            make: Makes it; None where it was stopped before it was whole.
            lasting: Whether it is worth keeping beyond this process.
        """
        found, where = self.problem.factors.get(self.problem.factor_key(key), kind, make, lasting=lasting)
        self._factors[key] = where
        return found

    @property
    def plan(self) -> dict[str, Any]:
        """How products are computed, JSON-ready."""
        single = {} if self._single_hessian is None else {"single": self._single_hessian.plan.as_dict()}
        return {**self._hessian.plan.as_dict(), **single}

    def note_shortage(self, what: str, steps: Sequence[str]) -> None:
        """Notes for ``info`` that memory ran out, and how it went on.

        Args:
            what: What was being made.
            steps: Each time, how many points went at a time before and after.
        """
        self._shortage += [f"{what}: out of memory with {step}" for step in steps]

    def count_partial(self, vectors: int, share: float) -> None:
        """Counts products with a part of the points only."""
        self._extra_products += vectors * share

    def report(
        self, iteration: int, max_iterations: int, relative_residual: Sequence[float]
    ) -> TerminationStatus | None:
        """Tells the callback about an iteration; returns why to stop, or None."""
        return self.monitor.step(iteration, max_iterations, relative_residual, self.hvps)

    def residual(self, rows: Sequence[int], X: Tensor) -> tuple[Tensor, Tensor]:
        """B − (H+λI)x of some right-hand sides, with the true operator and sums in float64.

        Args:
            rows: Which right-hand sides.
            X: Their solutions ``[len(rows), p]``.

        Returns:
            The residuals ``[len(rows), p]`` and their norms relative to ‖b‖, in float64; a norm is 0 where
            b and the residual are both 0.
        """
        b = self._given[list(rows)].to(self.problem.device, torch.float64)
        X = X.to(self.problem.device, self.problem.dtype)
        product = self.operator(X, accumulate=torch.float64)
        residual = b - product
        norm, norm_b = residual.norm(dim=1), b.norm(dim=1)
        return residual, torch.where(norm == 0, norm, norm / norm_b)

    def result(
        self, X: Tensor, endings: Sequence[Ending], tolerance: Tolerance, **info: Any
    ) -> InverseHvpResult[Tensor]:
        """Casts x to b's kind, certifies it, and puts the result together.

        Args:
            X: Solutions ``[k, p]``.
            endings: How the method ended for each.
            tolerance: What the method was asked for.
            info: What the method adds to ``info``.
        """
        self.monitor.close()
        certifying_since = time.perf_counter()
        self._timings["solve"] = certifying_since - self._solving_since
        X = X.to(self.problem.dtype, copy=True)
        zero = ~self._given.any(dim=1)
        X[zero.to(X.device)] = 0.0
        x = X.to(self._b.dtype)
        endings = [
            Ending(TerminationStatus.Converged, 0, relative_residual=0.0) if is_zero else ending
            for is_zero, ending in zip(zero.tolist(), endings, strict=True)
        ]
        certificates = self._certify(x, endings, tolerance, was_cast=x.dtype != X.dtype)
        self._timings["certify"] = time.perf_counter() - certifying_since
        self.problem.products_spent += self.hvps
        return InverseHvpResult(
            x=x.to(self._b.device).reshape(self._b.shape),
            info={
                **info,
                "certificate": certificates,
                "method": self.method.value,
                "hessian_perturbation": self.perturbation,
                "options": self._options,
                "timings": self._timings,
                "strategy": {**self.plan, **self.problem.description, **self._shortages},
                "hvps": self.hvps,
                "factors": self._factors,
                **self.chosen_perturbation,
            },
        )

    def _certify(
        self, x: Tensor, endings: Sequence[Ending], tolerance: Tolerance, *, was_cast: bool
    ) -> list[Certificate]:
        relative = [e.relative_residual for e in endings]
        unknown = [i for i, r in enumerate(relative) if r is None or (was_cast and r)]
        for start in range(0, len(unknown), CERTIFIED_AT_ONCE):
            rows = unknown[start : start + CERTIFIED_AT_ONCE]
            for i, value in zip(rows, self.residual(rows, x[rows])[1].tolist(), strict=True):
                relative[i] = value
        norms = self._given.double().norm(dim=1).tolist()
        return [
            issue(ending, float("nan") if r is None else r, norm, tolerance)
            for ending, r, norm in zip(endings, relative, norms, strict=True)
        ]

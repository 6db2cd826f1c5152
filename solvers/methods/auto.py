"""Probes the problem, chooses a method, explains the choice, and tries another where the certificate misses."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any, Final

import torch
from torch import Tensor

from ihvp.methods import InversionMethod, TerminationStatus
from solvers.certificate import Certificate
from solvers.choice import Candidate, Choice
from solvers.damping import Perturbation
from solvers.problem import Problem
from solvers.progress import Callback
from solvers.registry import InversionRegistry
from solvers.result import InverseHvpResult
from solvers.spectrum_probe import probe_spectrum
from solvers.system import LinearSystem, checked_options
from solvers.torch_model import TorchTwiceDifferentiable

__all__ = ["solve_auto"]

PROBES: Final = 25
"""Products spent on the spectrum: enough for its ends, few beside those of a solve."""
STOPPED: Final = (TerminationStatus.Cancelled, TerminationStatus.Deadline)


@InversionRegistry.register(TorchTwiceDifferentiable, InversionMethod.Auto)
def solve_auto(
    model: TorchTwiceDifferentiable,
    training_data: Iterable[Any],
    b: Tensor,
    hessian_perturbation: Perturbation = 0.0,
    *,
    rtol: float | None = None,
    atol: float = 0.0,
    maxiter: int | None = None,
    seed: int = 0,
    progress: bool = False,
    callback: Callback | None = None,
) -> InverseHvpResult[Tensor]:
    """Solves by what is predicted to be cheapest, and by the next one where that misses the tolerance.

    A short Lanczos process shows the ends of the spectrum and how fast conjugate gradients would be; with p, the
    number of right-hand sides and the cost of a product these decide between ``direct``, ``cg`` with or without a
    preconditioner, and ``minres`` where H + λI is not positive definite. What earlier solves on the same
    :class:`solvers.Problem` have left counts as paid for. Only right-hand sides that missed are solved again.

    Args:
        model: The model and its loss.
        training_data: Batches ``(x, y)``, or a :class:`solvers.Problem` of the same model.
        b: ``[p]`` or ``[k, p]``.
        hessian_perturbation: λ ≥ 0, by parameter, or ``auto``.
        rtol: Tolerance on ‖(H+λI)x − b‖ / ‖b‖; 1e-5 in float32 and 1e-8 in float64 if left out.
        atol: Tolerance on ‖(H+λI)x − b‖.
        maxiter: Most iterations of each method tried; 10 p if left out.
        seed: Random numbers of probes and preconditioners.
        progress: Draws a progress bar on stderr.
        callback: See :func:`solvers.solve_hvp`; a report names the method that is running.

    Returns:
        ``info`` is that of the method that solved last, with ``method`` ``auto``, the certificate of each right-hand
        side from the solve that came closest, and ``auto``: ``probe``, ``candidates`` (what each was predicted to
        cost, in products, and why it was left out if it was), ``tried`` (method, options, seconds, products, and how
        many right-hand sides converged) and ``why``.

    Raises:
        InvalidInput: See :func:`solvers.solve_hvp`.
    """
    options = checked_options(InversionMethod.Auto, rtol=rtol, atol=atol, maxiter=maxiter, seed=seed)
    system = LinearSystem(
        InversionMethod.Auto,
        model,
        training_data,
        b,
        hessian_perturbation,
        options=options,
        expected_products=PROBES,
        each_rhs=False,
        rows=1,
        callback=callback,
        progress=progress,
    )
    problem = system.problem
    wanted = system.tolerance(rtol).rtol
    probe, stop = probe_spectrum(system, PROBES, seed, least=PROBES)
    choice = Choice(system, probe, wanted, maxiter)
    attempts = _Attempts(system, problem, b, {"rtol": wanted, "atol": atol, "maxiter": maxiter, "seed": seed})
    attempts.watch(callback=callback, progress=progress)
    for candidate in choice.order() if stop is None else [choice.first_to_stop()]:
        attempts.make(candidate)
        if attempts.over:
            break
    return attempts.result(options, choice)


class _Attempts:
    """Solves of ever fewer right-hand sides, and the best of each."""

    def __init__(self, system: LinearSystem, problem: Problem, b: Tensor, common: dict[str, Any]) -> None:
        self._system = system
        self._problem = problem
        self._b = b
        self._rows = b.detach().reshape(-1, system.operator.size)
        self._common = common
        self._X = torch.zeros_like(self._rows)
        self._certificates: list[Certificate | None] = [None] * self._rows.shape[0]
        self._left = list(range(self._rows.shape[0]))
        self._info: dict[str, Any] = {}
        self._tried: list[dict[str, Any]] = []
        self._hvps = system.hvps
        self._watch: dict[str, Any] = {}

    def watch(self, **watch: Any) -> None:
        """How each solve is watched."""
        self._watch = watch

    @property
    def over(self) -> bool:
        """Whether every right-hand side is solved, or somebody asked to stop."""
        statuses = {c["status"] for c in self._certificates if c is not None}
        return not self._left or any(stop.value in statuses for stop in STOPPED)

    def make(self, candidate: Candidate) -> None:
        """Solves what is left by a method, and keeps what came closer than before."""
        began = time.perf_counter()
        own = {name: value for name, value in self._common.items() if name in candidate.takes}
        solved = self._problem.solve(
            candidate.method,
            self._rows[self._left],
            hessian_perturbation=self._system.perturbation,
            **own,
            **candidate.options,
            **self._watch,
        )
        self._hvps += solved.info["hvps"]
        good = 0
        for place, (row, certificate) in enumerate(zip(self._left, solved.info["certificate"], strict=True)):
            if _closer(certificate, self._certificates[row]):
                self._X[row], self._certificates[row] = solved.x[place], certificate
            good += self._is_solved(certificate)
        self._tried.append(
            {
                **candidate.as_dict(),
                "right_hand_sides": len(self._left),
                "converged": good,
                "seconds": time.perf_counter() - began,
                "products": solved.info["hvps"],
            }
        )
        self._info = solved.info
        self._left = [row for row in self._left if not self._is_solved(self._certificates[row])]

    def result(self, options: dict[str, Any], choice: Choice) -> InverseHvpResult[Tensor]:
        """Everything put together."""
        return InverseHvpResult(
            x=self._X.reshape(self._b.shape),
            info={
                **self._info,
                "certificate": self._certificates,
                "method": InversionMethod.Auto.value,
                "options": options,
                "hvps": self._hvps,
                **self._system.chosen_perturbation,
                "auto": {**choice.as_dict(), "tried": self._tried},
            },
        )

    @staticmethod
    def _is_solved(certificate: Certificate | None) -> bool:
        solved = (TerminationStatus.Converged.value, TerminationStatus.AbsoluteTolerance.value)
        return certificate is not None and certificate["status"] in solved


def _closer(new: Certificate, old: Certificate | None) -> bool:
    if old is None or old["relative_residual"] is None:
        return True
    return new["relative_residual"] is not None and new["relative_residual"] < old["relative_residual"]

"""Dense factorisation of H + λI, refined with the true operator."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any, Final

import torch
from torch import Tensor

from ihvp.errors import HessianTooLarge, InvalidOption
from ihvp.methods import InversionMethod, TerminationStatus, dense_hessian_bytes
from solvers.certificate import Ending, Tolerance
from solvers.dense import DenseHessian, DenseInverse, dense_inverse
from solvers.progress import Callback
from solvers.registry import InversionRegistry
from solvers.result import InverseHvpResult
from solvers.system import LinearSystem
from solvers.torch_model import TorchTwiceDifferentiable

__all__ = ["solve_direct"]

ROWS_AT_ONCE: Final = 32
REFINEMENTS: Final = 5
ENOUGH: Final = 0.1
"""Share of the tolerance below which a residual is refined no further: each look at it costs a product."""


@InversionRegistry.register(TorchTwiceDifferentiable, InversionMethod.Direct)
def solve_direct(
    model: TorchTwiceDifferentiable,
    training_data: Iterable[Any],
    b: Tensor,
    hessian_perturbation: float = 0.0,
    *,
    memory_budget: int | None = None,
    progress: bool = False,
    callback: Callback | None = None,
) -> InverseHvpResult[Tensor]:
    """Solves by a float64 Cholesky factorisation; by eigenvalues where H + λI is not positive definite.

    The Hessian and what inverts it are kept by a :class:`solvers.Problem`: another b costs no product and no
    factorisation there, another λ no product. The solution is refined with the true operator, so that the residual is
    what the model's dtype holds. ``converged`` means a relative residual ≤ 1e-5 where the model or b is float32, else
    ≤ 1e-10. An indefinite system is solved too; the certificate then carries its smallest eigenvalue. A singular one
    gets the solution of least norm, if there is one.

    Args:
        model: The model and its loss.
        training_data: Batches ``(x, y)``, or a :class:`solvers.Problem` of the same model.
        b: ``[p]`` or ``[k, p]``.
        hessian_perturbation: λ ≥ 0.
        memory_budget: Bytes that the dense matrices may take; half of the machine's memory if left out.
        progress: Draws a progress bar on stderr.
        callback: See :func:`solvers.solve_hvp`; its iterations are rows of the Hessian. A stop before the
            factorisation leaves x = 0.

    Returns:
        ``info`` has ``hessian`` (``[p, p]``, without λ, in the model's dtype), ``inertia`` (how many eigenvalues
        of H + λI are ``positive``, ``negative`` and ``zero``) and ``factorization``.

    Raises:
        HessianTooLarge: The dense matrices exceed the budget; says the bytes needed.
        InvalidInput: See :func:`solvers.solve_hvp`.
    """
    _check_memory(model, memory_budget)
    p = model.num_params
    system = LinearSystem(
        InversionMethod.Direct,
        model,
        training_data,
        b,
        hessian_perturbation,
        options={"memory_budget": memory_budget},
        expected_products=p,
        each_rhs=False,
        rows=min(p, ROWS_AT_ONCE),
        callback=callback,
        progress=progress,
    )
    coarse = torch.float32 in (b.dtype, system.problem.dtype)
    tolerance = Tolerance(1e-5 if coarse else 1e-10)
    dense, stop = _dense(system)
    if dense is None:
        assert stop is not None  # noqa: S101
        endings = [Ending(stop, 0)] * system.rhs.shape[0]
        return system.result(torch.zeros_like(system.rhs), endings, tolerance, hessian=None)
    inverse = dense_inverse(system, dense.H)
    facts, smallest = inverse.facts, inverse.smallest
    X, refinements, relative = _refine(system, inverse, ENOUGH * tolerance.rtol)
    singular = facts["inertia"] is not None and facts["inertia"]["zero"] > 0
    status = TerminationStatus.Breakdown if singular else TerminationStatus.Stagnated
    enough = None if smallest is None else system.largest_damping + 1.1 * abs(smallest) + 10 * inverse.floor
    endings = [
        Ending(status, n, _advice(facts), smallest, enough, residual)
        for n, residual in zip(refinements, relative, strict=True)
    ]
    return system.result(X, endings, tolerance, hessian=dense.H, **facts)


def _check_memory(model: TorchTwiceDifferentiable, memory_budget: int | None) -> None:
    if memory_budget is not None and (isinstance(memory_budget, bool) or not isinstance(memory_budget, int)):
        raise InvalidOption(
            "memory_budget is a number of bytes.", given=repr(memory_budget), allowed="an integer, or None"
        )
    parameters = model.parameters
    p = sum(t.numel() for t in parameters)
    needed = dense_hessian_bytes(p, str(parameters[0].dtype).removeprefix("torch."))
    budget = _half_of_memory(parameters[0].device) if memory_budget is None else memory_budget
    if needed > budget:
        raise HessianTooLarge(
            f"A dense Hessian of {p} parameters and its factorisation need {needed} bytes.",
            given=f"{needed} bytes",
            allowed=f"{budget} bytes",
            hint="Use method 'cg', which needs products with the Hessian only.",
        )


def _half_of_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[1]) // 2
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def _dense(system: LinearSystem) -> tuple[DenseHessian | None, TerminationStatus | None]:
    """H, kept by the problem or computed row block by row block; or why that was stopped."""
    asked: list[TerminationStatus] = []

    def make() -> DenseHessian | None:
        p = system.operator.size
        H = system.rhs.new_zeros(p, p)
        nothing_yet = [1.0] * system.rhs.shape[0]
        for start in range(0, p, ROWS_AT_ONCE):
            rows = min(ROWS_AT_ONCE, p - start)
            unit = system.rhs.new_zeros(rows, p)
            unit[torch.arange(rows), torch.arange(start, start + rows)] = 1.0
            H[start : start + rows] = system.operator.curvature(unit)
            stop = system.report(start + rows, p, nothing_yet)
            if stop is not None:
                asked.append(stop)
                return None
        return DenseHessian((H + H.T) / 2)

    found = system.factor("dense", DenseHessian, make)
    if found is None:
        return None, asked[0]
    # What another worker has left comes from main memory.
    return DenseHessian(found.H.to(system.problem.device)), None


def _refine(system: LinearSystem, solve: DenseInverse, enough: float) -> tuple[Tensor, list[int], list[float]]:
    """Solutions in the model's dtype, how many corrections each took, and their true relative residuals."""
    X = solve(system.rhs.double()).to(system.problem.dtype)
    going_on = list(range(system.rhs.shape[0]))
    residual, best = system.residual(going_on, X)
    counts = [0] * len(going_on)
    for step in range(1, REFINEMENTS + 1):
        going_on = [i for i in going_on if not float(best[i]) <= enough]
        if not going_on:
            break
        candidate = (X[going_on].double() + solve(residual[going_on])).to(X.dtype)
        new_residual, relative = system.residual(going_on, candidate)
        halved = (relative < best[going_on] / 2).tolist()
        for j, i in enumerate(going_on):
            if relative[j] < best[i]:
                X[i], residual[i], best[i], counts[i] = candidate[j], new_residual[j], relative[j], step
        going_on = [i for i, more in zip(going_on, halved, strict=True) if more]
    return X, counts, best.tolist()


def _advice(facts: dict[str, Any]) -> str | None:
    inertia = facts["inertia"]
    if inertia is None:
        return "The Hessian is not finite at the trained parameters."
    if inertia["zero"]:
        return (
            f"H + λI is singular to working precision ({inertia['zero']} zero eigenvalues) and b is not in its "
            "range: x is the least-squares solution of least norm. Raise hessian_perturbation."
        )
    return None

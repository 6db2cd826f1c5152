"""The one function that most callers need."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

from ihvp.methods import InversionMethod
from solvers.damping import Perturbation
from solvers.registry import InversionRegistry
from solvers.result import InverseHvpResult
from solvers.twice_differentiable import TwiceDifferentiable

__all__ = ["solve_hvp"]

TensorT = TypeVar("TensorT")


def solve_hvp(
    method: InversionMethod | str,
    model: TwiceDifferentiable[TensorT],
    training_data: Iterable[Any],
    b: TensorT,
    *,
    hessian_perturbation: Perturbation = 0.0,
    **options: Any,
) -> InverseHvpResult[TensorT]:
    """Solves (H + λI) x = b, where H is the Hessian of the mean loss over all training points.

    Failing to converge is a result: read ``info["certificate"]``. Nothing is kept between calls; to solve
    more than once on a model, make a :class:`solvers.Problem` and call its ``solve``, or pass it as
    ``training_data``.

    Args:
        method: A :class:`InversionMethod`, or its name.
        model: The model and its loss.
        training_data: Iterable of ``(x, y)`` or ``(x, y, w)`` batches of any sizes, or a :class:`solvers.Problem`;
            see there.
        b: One right-hand side ``[p]`` or several ``[k, p]``, in any floating dtype and on any device. The solve
            runs in the dtype and on the device of the model's parameters.
        hessian_perturbation: λ ≥ 0; or λ by shell patterns over parameter names, ``{"*": 0.01, "head.*": 0.1}``, of
            which the last that matches counts: H + Λ is then solved with, by the methods that can.
        **options: The method's own; see the functions in :mod:`solvers.methods`. All take ``callback``,
            called with an :class:`solvers.IterationReport` once an iteration, and ``progress``.

    Returns:
        x in the shape, dtype and device of b, and ``info``: ``certificate`` (one entry a right-hand side, on x
        as returned), ``method``, ``options``, ``hessian_perturbation``, ``timings`` (seconds to ``linearise``,
        ``solve`` and ``certify``), ``strategy`` (how products were computed, and why), ``hvps``, ``factors`` (what
        of earlier solves was used: ``kept``, ``loaded`` or ``made``), and what the method adds.

    Raises:
        UnknownMethod: No method has this name.
        NotRegistered: The method is not there for this kind of model.
        UnknownOption: The method has no such option.
        InvalidOption: An option has the wrong type or value.
        RhsShapeMismatch: b does not have p numbers a row.
        NonFiniteRhs: b holds NaN or infinity.
        InvalidInput: Further errors of model and data; see :class:`solvers.Problem`.
    """
    return InversionRegistry.call(method, model, training_data, b, hessian_perturbation, **options)

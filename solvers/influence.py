"""Influence of every training point from one forward-mode pass."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from solvers.batch import Batch, moved
from solvers.kernels import twice_differentiable_kernels
from solvers.out_of_memory import Portions
from solvers.problem import Problem
from solvers.rhs import check_rhs
from solvers.torch_model import TorchTwiceDifferentiable

__all__ = ["influence_scores"]


def influence_scores(
    model: TorchTwiceDifferentiable,
    points: Iterable[Any],
    x: Tensor,
    *,
    chunk_points: int | None = None,
) -> Tensor:
    """Scores s = xᵀ ∇ℓ(z) of all points z for each solution x = (H + λI)⁻¹ ∇ℓ(t).

    Positive means helpful: up-weighting z lowers the loss of t. ℓ(z) is the loss on a batch of one, and there is
    no 1/n. Sample weights play no part in ∇ℓ(z): they have had theirs in H. The scores are directional derivatives
    of the vector of losses along x, so no gradient of a single point is formed, and memory does not grow with n
    beyond the scores themselves.

    Args:
        model: The model and its loss.
        points: Iterable of ``(x, y)`` batches with n points altogether, or a :class:`solvers.Problem`, whose
            parameters are then used.
        x: Solutions ``[p]`` or ``[k, p]``.
        chunk_points: Points per pass; as many as the problem's memory budget holds if left out. Half of them, and
            half again, where memory runs out.

    Returns:
        ``[n]`` or ``[k, n]``, in the dtype and on the device of x, in the order of the points.

    Raises:
        RhsShapeMismatch: x does not have p numbers a row.
        NonFiniteRhs: x holds NaN or infinity.
        OutOfMemory: Not even one point fits the memory that is free.
        InvalidInput: The points do not fit the model or the loss; see :class:`solvers.Problem`.
    """
    rows = check_rhs(x, model.num_params)
    problem = Problem.of(model, points)
    snapshot, terms = problem.snapshot, problem.terms
    portions = Portions(chunk_points or problem.chunk_points(), problem.device)
    tangents = [snapshot.split(row) for row in rows.to(problem.device, problem.dtype)]

    def of_points(batch: Batch) -> Tensor:
        inputs, targets, _ = moved(batch, problem.device)

        def losses(*parameters: Tensor) -> Tensor:
            return terms.per_point(snapshot.outputs(parameters, inputs), targets)

        return torch.stack([_along(losses, snapshot.parameters, v) for v in tangents])

    scores: list[Tensor] = []
    with torch.no_grad(), twice_differentiable_kernels():
        for batch in problem.data.streamed(portions.most, problem.device):
            scores.extend(portions.each(batch, of_points))
    return torch.cat(scores, dim=1).to(x).reshape(*x.shape[:-1], problem.num_points)


def _along(function: Any, at: Sequence[Tensor], direction: Sequence[Tensor]) -> Tensor:
    derivative: Tensor = torch.func.jvp(function, tuple(at), tuple(direction))[1]
    return derivative

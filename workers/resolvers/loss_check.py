"""Whether a model is trained: its loss and gradient on a few training points, beside what knowing nothing costs."""

from __future__ import annotations

import math
from typing import Any, Final

import torch
from torch import Tensor

from ihvp.models.spec import LossSpec
from solvers import Problem
from solvers.batch import moved
from solvers.kernels import twice_differentiable_kernels
from workers.resolvers.data import PointBatches

__all__ = ["CHECKED_POINTS", "check_loss"]

CHECKED_POINTS: Final = 8


def check_loss(problem: Problem, batches: PointBatches, loss: LossSpec, num_classes: int | None) -> dict[str, Any]:
    """Mean loss and norm of its gradient at the first training points, each counted once.

    Args:
        problem: Model and loss.
        batches: The training data.
        loss: The loss, to say what a model that knows nothing would have.
        num_classes: How many classes it predicts, where it predicts any.

    Returns:
        ``points``, ``mean_loss``, ``gradient_norm``, and ``uninformed_loss``: that of the same answer for every
        point, None where this is not known.
    """
    leaves = tuple(p.detach().requires_grad_() for p in problem.snapshot.parameters)
    total, weight = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    gradient: Tensor | None = None
    count = min(CHECKED_POINTS, batches.num_points)
    targets: list[Tensor] = []
    with twice_differentiable_kernels(), torch.enable_grad():
        for at in range(count):  # one at a time: a large model has room for one
            x, y, _ = moved(batches.points(at, at + 1), problem.device)
            output = problem.snapshot.outputs(leaves, x)
            value = problem.terms.numerator(output, y)
            row = problem.snapshot.join(
                torch.autograd.grad(value, leaves, allow_unused=True, materialize_grads=True)
            ).double()
            gradient = row if gradient is None else gradient + row
            total += value.detach().double().cpu()
            weight += float(problem.terms.denominator(output.detach(), y))
            targets.append(y.detach().double().cpu())
    norm = 0.0 if gradient is None else float(gradient.norm())
    return {
        "points": count,
        "mean_loss": float(total / weight),
        "gradient_norm": norm / float(weight) if weight else math.nan,
        "uninformed_loss": _uninformed(loss, num_classes, targets),
    }


def _uninformed(loss: LossSpec, num_classes: int | None, targets: list[Tensor]) -> float | None:
    """The loss of the best answer that is the same for every point, before any of the classes is known."""
    if loss.type == "cross_entropy" and num_classes:
        return math.log(num_classes)
    if loss.type == "bce_with_logits" and loss.pos_weight is None:
        return math.log(2)
    if loss.type == "mse" and targets:
        values = torch.cat(targets)
        return float((values - values.mean(0)).square().mean())
    return None

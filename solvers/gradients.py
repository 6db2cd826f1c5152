"""Gradients of single points' losses: the right-hand sides of influence questions."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from solvers.batch import moved
from solvers.kernels import twice_differentiable_kernels
from solvers.out_of_memory import one_point_at_a_time
from solvers.problem import Problem
from solvers.torch_model import TorchTwiceDifferentiable

__all__ = ["loss_gradients"]


def loss_gradients(model: TorchTwiceDifferentiable, points: Iterable[Any]) -> Tensor:
    """The gradient of the loss of each point, a point's loss being the loss on a batch of one.

    Args:
        model: The model and its loss.
        points: Iterable of ``(x, y)`` batches with k points altogether.

    Returns:
        ``[k, p]``, in the dtype and on the device of the parameters, in the order of the points.

    Raises:
        OutOfMemory: A point does not fit the memory that is free.
        InvalidInput: The points do not fit the model or the loss; see :class:`solvers.Problem`.
    """
    problem = Problem.of(model, points)
    snapshot, terms = problem.snapshot, problem.terms
    leaves = tuple(p.detach().requires_grad_() for p in snapshot.parameters)
    rows: list[Tensor] = []
    with twice_differentiable_kernels(), torch.enable_grad(), one_point_at_a_time():
        for batch in problem.data.chunks(1):
            x, y, _ = moved(batch, problem.device)
            output = snapshot.outputs(leaves, x)
            loss = terms.per_point(output, y).sum()
            rows.append(snapshot.join(torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True)))
    return torch.stack(rows)

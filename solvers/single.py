"""The float32 twin of a float64 problem: the same H to seven digits, for half the time and memory of a product."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor, nn

from ihvp.methods import Curvature
from solvers.torch_model import TorchTwiceDifferentiable

if TYPE_CHECKING:
    from solvers.problem import Problem

__all__ = ["SingleTwin", "single_twin"]

LEAST_GRAPH: Final = 2**20
LEAST_PARAMETERS: Final = 2000
"""Bytes of a float64 gradient graph, and parameters, below which products are calls more than arithmetic."""
DRAWN: Final = (Curvature.McFisher,)
"""Curvatures whose draws rounding may change: the twin would be another matrix."""


@dataclass(frozen=True)
class SingleTwin:
    """The twin, and the bytes of its copy of the data."""

    problem: Problem
    data_bytes: int


def single_twin(problem: Problem, graph_bytes: float) -> SingleTwin | None:
    """The twin of a problem; None where it would not pay, not fit the memory budget, or not work.

    Args:
        problem: In float64.
        graph_bytes: What the gradient graphs of all its points take.
    """
    if (
        problem.dtype != torch.float64
        or problem.curvature in DRAWN
        or not problem.data.in_memory
        or problem.num_params < LEAST_PARAMETERS
        or not LEAST_GRAPH <= graph_bytes <= problem.memory_budget / 2
    ):
        return None
    data = [batch.map(_single) for batch in problem.data.batches()]
    copied = sum(part.nbytes for batch in data for part in batch.tensors() if part.is_floating_point())
    if copied > problem.memory_budget / 4:
        return None
    try:
        module, loss = copy.deepcopy(problem.model.model).float(), copy.deepcopy(problem.model.loss)
        model = TorchTwiceDifferentiable(module, loss.float() if isinstance(loss, nn.Module) else loss)
        made = type(problem)(
            model,
            data,
            curvature=problem.curvature,
            memory_budget=problem.memory_budget // 2,
            strategy=problem.strategy,
        )
    except Exception:
        # Somebody's module may be tied to float64 in any way: it is then solved in float64, as it was given.
        return None
    # The parameters that the problem was made at, whatever happened to the module since.
    made.snapshot.take(problem.snapshot)
    return SingleTwin(made, copied)


def _single(part: Tensor) -> Tensor:
    return part.to(torch.float32) if part.is_floating_point() else part

"""What a Hessian-vector product costs by each strategy, in units of one gradient of the same loss."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

import solvers
from benchmarks.problem_files import Problem, read_problem

__all__ = ["product_costs"]

STRATEGIES: Final = ("graph", "linearized", "recomputed", "forward")
LONG_SOLVE: Final = 2000
"""Products announced to ``auto``, so that it measures all that it knows."""


def product_costs(folder: Path, dtype: torch.dtype, *, block: int, repeats: int) -> dict[str, Any]:
    """Costs by strategy.

    Args:
        folder: The files of the problem.
        dtype: Of the products.
        block: How many vectors go into the operator at a time.
        repeats: Rounds over all strategies, of which medians are taken.

    Returns:
        ``gradient`` (seconds), ``strategies`` (cost a vector in gradients, or why there is none),
        ``auto`` (what it took, and its cost).
    """
    problem = read_problem(folder, dtype, block)
    V = problem.cold
    runs: dict[str, Callable[[], object]] = {"gradient": _gradient(problem)}
    failed: dict[str, str] = {}
    chosen: dict[str, Any] = {}
    for strategy in (*STRATEGIES, "auto"):
        try:
            operator = _operator(problem, strategy, block)
            operator(V)
            runs[strategy] = lambda operator=operator: operator(V)  # type: ignore[misc]
            if strategy == "auto":
                chosen = operator.plan.as_dict()
        except Exception as error:  # a strategy that a problem does not allow is a result
            failed[strategy] = f"{type(error).__name__}: {error}".splitlines()[0][:120]
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            started = time.perf_counter()
            run()
            seconds[name].append((time.perf_counter() - started) / (1 if name == "gradient" else block))
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    gradient = medians.pop("gradient")
    costs: dict[str, float | str] = {name: value / gradient for name, value in medians.items()}
    return {"gradient": gradient, "strategies": {**costs, **failed}, "auto": chosen}


def _operator(problem: Problem, strategy: Any, block: int) -> Any:
    model = solvers.TorchTwiceDifferentiable(problem.module, problem.loss)
    made = solvers.Problem(model, [(problem.x, problem.y)], strategy=strategy)
    return made.hessian(LONG_SOLVE, block)


def _gradient(problem: Problem) -> Callable[[], tuple[Tensor, ...]]:
    parameters = list(problem.module.parameters())

    def run() -> tuple[Tensor, ...]:
        # The same attention kernel as the products have to use.
        with sdpa_kernel(SDPBackend.MATH):
            return torch.autograd.grad(problem.loss(problem.module(problem.x), problem.y), parameters)

    run()
    return run

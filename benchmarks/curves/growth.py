"""How time and memory of a solve grow with the points, and the time of a product with the parameters."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch

import solvers
from benchmarks.contestants import Server
from benchmarks.problem_files import build_module, read_problem
from benchmarks.rows import TOLERANCES, Row
from benchmarks.solve_job import solve_job

__all__ = ["BUDGET", "COUNT", "growth_with_parameters", "growth_with_points", "slope"]

COUNT: Final = 4
TIMES_THE_POINTS: Final = (0.5, 1, 2, 4, 8)
QUICK_TIMES_THE_POINTS: Final = (1, 2)
TIMES_THE_WIDTH: Final = (0.5, 1, 2, 4)
QUICK_TIMES_THE_WIDTH: Final = (0.5, 1, 2)
BUDGET: Final = 2**27
"""Bytes that a problem may keep in this measurement, so that the larger ones do not fit and have to stream."""
LIMIT: Final = 20.0
PRODUCTS_TIMED: Final = 9
EXPECTED: Final = 200
"""Products announced, as many as a solve needs, so that the way of computing them is the one of a solve."""
WIDTHS: Final = {
    "mlp": ("hidden",),
    "cnn": ("channels",),
    "transformer-lm": ("width",),
    "linear": ("in_features",),
}


def growth_with_points(row: Row, folder: Path, server: Server, *, quick: bool) -> list[dict[str, float]]:
    """Seconds and peak bytes of a cold solve in float32 on a part of the points, and on copies of them.

    Copies leave the mean loss and so the iterations as they are; what grows is the work of a product. The
    ``base_bytes`` are those of the process with the data, before the solve.
    """
    found: list[dict[str, float]] = []
    for factor in QUICK_TIMES_THE_POINTS if quick else TIMES_THE_POINTS:
        points = int(row.points * factor)
        settings = {"method": "cg", "memory_budget": BUDGET}
        report = server.run(
            solve_job(
                folder, "float32", COUNT, TOLERANCES["float32"], settings, limit=LIMIT, out="growth", points=points
            )
        )
        if report["status"] != "ok":
            break
        found.append(
            {
                "points": points,
                "seconds": report["cold"],
                "iterations": report["facts"]["iterations"],
                "base_bytes": report["base_bytes"],
                "peak_bytes": report["peak_bytes"],
            }
        )
    return found


def growth_with_parameters(row: Row, folder: Path, *, quick: bool) -> list[dict[str, float]]:
    """Seconds of one product in float32 with networks of the row's kind, narrower and wider, untrained.

    Softmax regression has no inner width: there it is random features of the inputs that become more.
    """
    problem = read_problem(folder, torch.float32, 1)
    products: list[tuple[int, Callable[[], object]]] = []
    for factor in QUICK_TIMES_THE_WIDTH if quick else TIMES_THE_WIDTH:
        torch.manual_seed(0)
        architecture = _widened(row.architecture, factor)
        x = problem.x
        if architecture["type"] == "linear":
            inputs, features = x.shape[1], architecture["config"]["in_features"]
            x = x @ torch.randn(inputs, features) / inputs**0.5
        model = solvers.TorchTwiceDifferentiable(build_module(architecture).eval(), problem.loss)
        operator = solvers.Problem(model, [(x, problem.y)]).hessian(EXPECTED, 1)
        v = torch.randn(1, model.num_params)
        operator(v)
        products.append((model.num_params, partial(operator, v)))
    seconds: dict[int, list[float]] = {p: [] for p, _ in products}
    for _ in range(PRODUCTS_TIMED):
        for p, product in products:
            started = time.perf_counter()
            product()
            seconds[p].append(time.perf_counter() - started)
    return [{"parameters": p, "seconds": statistics.median(taken)} for p, taken in seconds.items()]


def slope(pairs: Sequence[tuple[float, float]]) -> float | None:
    """The exponent by which the second number grows with the first, by least squares in logarithms; 1 is linear.

    None where there are fewer than two different first numbers.
    """
    logs = [(math.log(x), math.log(y)) for x, y in pairs]
    if len({x for x, _ in logs}) < 2:
        return None
    return statistics.linear_regression(*zip(*logs, strict=True)).slope


def _widened(architecture: Mapping[str, Any], factor: float) -> dict[str, Any]:
    """The same architecture with its inner widths multiplied; the inputs' width where it has none."""
    config = dict(architecture["config"])
    for name in WIDTHS[architecture["type"]]:
        value = config[name]
        config[name] = [int(v * factor) for v in value] if isinstance(value, list) else int(value * factor)
    return {"type": architecture["type"], "config": config}

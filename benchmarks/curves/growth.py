"""How time and memory of a solve grow with the points, and the time of a product with the parameters."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch

import solvers
from benchmarks.contestants import Server
from benchmarks.machine import usable_cores
from benchmarks.problem_files import build_module, read_problem
from benchmarks.rows import Row

__all__ = ["growth_with_parameters", "growth_with_points"]

COUNT: Final = 16
TIMES_THE_POINTS: Final = (0.25, 0.5, 1, 2, 4, 8)
TIMES_THE_WIDTH: Final = (0.5, 1, 2, 4)
BUDGET: Final = 2**27
"""Bytes that a problem may keep in this measurement, so that the larger ones do not fit and have to stream."""
LIMIT: Final = 60.0
PRODUCTS_TIMED: Final = 5


def growth_with_points(row: Row, folder: Path, server: Server) -> list[dict[str, float]]:
    """Seconds and peak bytes of a cold solve in float32 on a part of the points, and on copies of them.

    Copies leave the mean loss and so the iterations as they are; what grows is the work of a product.
    """
    found = []
    for factor in TIMES_THE_POINTS:
        points = int(row.points * factor)
        report = server.run(
            {
                "problem": str(folder),
                "dtype": "float32",
                "count": COUNT,
                "points": points,
                "rtol": 1e-5,
                "settings": {"method": "cg", "memory_budget": BUDGET},
                "limit": LIMIT,
                "warm": False,
                "out": ".bench/runs/growth",
                "threads": usable_cores(),
            }
        )
        if report["status"] != "ok":
            break
        iterations = report["facts"]["iterations"]
        found.append(
            {
                "points": points,
                "seconds": report["cold"],
                "iterations": iterations,
                "peak_bytes": report["peak_bytes"],
            }
        )
    return found


def growth_with_parameters(row: Row, folder: Path) -> list[dict[str, float]]:
    """Seconds of one product in float32 with networks of the row's kind, narrower and wider, untrained."""
    problem = read_problem(folder, torch.float32, 1)
    found = []
    for factor in TIMES_THE_WIDTH:
        architecture = _widened(row.architecture, factor)
        if architecture is None:
            return []
        torch.manual_seed(0)
        model = solvers.TorchTwiceDifferentiable(build_module(architecture).eval(), problem.loss)
        operator = solvers.Problem(model, [(problem.x, problem.y)]).hessian(100, 1)
        v = torch.randn(1, model.num_params)
        operator(v)
        seconds = []
        for _ in range(PRODUCTS_TIMED):
            started = time.perf_counter()
            operator(v)
            seconds.append(time.perf_counter() - started)
        found.append({"parameters": model.num_params, "seconds": statistics.median(seconds)})
    return found


def _widened(architecture: Mapping[str, Any], factor: float) -> dict[str, Any] | None:
    """The same architecture with its inner widths multiplied; None where it has none."""
    config = dict(architecture["config"])
    inner = [name for name in ("hidden", "channels", "width") if name in config and name != "in_features"]
    if architecture["type"] == "linear":
        return None
    for name in inner:
        if architecture["type"] == "cnn" and name == "width":
            continue
        value = config[name]
        config[name] = [int(v * factor) for v in value] if isinstance(value, list) else int(value * factor)
    return {"type": architecture["type"], "config": config}

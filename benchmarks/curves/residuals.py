"""Residual against time: this project's as its callback reports it, the peers' by solving to several tolerances."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import solvers
from benchmarks.contestants import CONTESTANTS, Server
from benchmarks.judge import Judge
from benchmarks.problem_files import read_problem
from benchmarks.rows import DTYPES, TOLERANCES
from benchmarks.solve_job import solve_job

__all__ = ["COUNT", "residual_histories"]

COUNT: Final = 16
DTYPE: Final = "float32"
TOLERANCES_TRIED: Final = (1e-1, 1e-3, 1e-5)
QUICK_TOLERANCES_TRIED: Final = (1e-1, 1e-3)
LIMIT: Final = 10.0


def residual_histories(folder: Path, servers: Mapping[str, Server], *, quick: bool) -> dict[str, list[list[float]]]:
    """Points (seconds of a cold solve, worst relative residual) by contestant.

    The peers have no callback, so each of their points is a solve of its own, certified by the judge.
    """
    histories = {"ihvp cg": _followed(folder)}
    judge = Judge(folder, DTYPES[DTYPE], COUNT)
    for contestant in CONTESTANTS:
        if contestant.ours or contestant.one_by_one or contestant.adapter not in servers:
            continue
        points: list[list[float]] = []
        for rtol in QUICK_TOLERANCES_TRIED if quick else TOLERANCES_TRIED:
            job = solve_job(folder, DTYPE, COUNT, rtol, contestant.settings, limit=LIMIT, out=contestant.adapter)
            report = servers[contestant.adapter].run(job)
            if report["status"] != "ok":
                break
            worst = max(judge.residuals("cold", Path(job["out"]) / "cold.npy"))
            if not math.isfinite(worst):
                break
            points.append([report["cold"], worst])
        histories[contestant.name] = points
    return histories


def _followed(folder: Path) -> list[list[float]]:
    problem = read_problem(folder, DTYPES[DTYPE], COUNT)
    points: list[list[float]] = []
    started = time.perf_counter()

    def note(report: solvers.IterationReport) -> None:
        points.append([time.perf_counter() - started, max(r or 0.0 for r in report.relative_residual)])

    model = solvers.TorchTwiceDifferentiable(problem.module, problem.loss)
    solvers.Problem(model, [(problem.x, problem.y)]).solve(
        "cg", problem.cold, hessian_perturbation=problem.damping, rtol=TOLERANCES[DTYPE], atol=0.0, callback=note
    )
    return points

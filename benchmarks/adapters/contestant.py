"""What every contestant's adapter offers, and where a solve is timed."""

from __future__ import annotations

import json
import math
import resource
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.problem_files import Problem, read_problem

__all__ = ["Adapter", "ProductCounter", "Solver", "TookTooLong", "run_job"]

DTYPES = {"float32": torch.float32, "float64": torch.float64}


class Solver(Protocol):
    """A contestant with one model loaded."""

    def solve(self, rhs: Tensor) -> Tensor:
        """Solutions ``[k, p]`` for right-hand sides ``[k, p]``."""

    def facts(self) -> dict[str, Any]:
        """What it says about its last solve, JSON-ready: ``iterations``, and products where they can be counted.

        ``own_residual`` is the largest relative residual by the contestant's own products, if it can say that.
        """


class Adapter(Protocol):
    """Makes a solver of a problem; all of its set-up is timed."""

    def __call__(self, problem: Problem, rtol: float, **settings: Any) -> Solver:
        """A solver that stops at the relative residual ``rtol`` as this contestant understands it."""


class TookTooLong(Exception):
    """A solve ran into its time limit."""


class ProductCounter:
    """Counts the Hessian-vector products of a solve, and the time in them, around a library's own product.

    Attributes:
        calls: Products asked for, of a vector or of a block.
        vectors: Vectors in them.
        seconds: Spent in them.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Begins anew."""
        self.calls, self.vectors, self.seconds = 0, 0, 0.0

    def around(self, product: Callable[..., Any], vectors_of: Callable[..., int]) -> Callable[..., Any]:
        """The same function, counted.

        Args:
            product: The library's.
            vectors_of: How many vectors are in its arguments.
        """

        def counted(*arguments: Any, **named: Any) -> Any:
            started = time.perf_counter()
            found = product(*arguments, **named)
            self.seconds += time.perf_counter() - started
            self.calls += 1
            self.vectors += vectors_of(*arguments, **named)
            return found

        return counted

    def as_dict(self) -> dict[str, Any]:
        """``products`` and ``product_seconds``: vectors multiplied, and the time of all of them."""
        return {"products": self.vectors, "product_seconds": self.seconds}


def run_job(adapter: Adapter, job: dict[str, Any]) -> None:
    """Solves twice on one model and writes solutions, seconds and facts to the job's folder.

    Args:
        adapter: The contestant.
        job: ``problem`` (folder), ``dtype``, ``count``, ``points``, ``rtol``, ``settings``, ``limit`` (seconds
            a solve), ``warm`` (whether to solve a second time), ``warm_within`` (seconds of the first solve above
            which there is no second one), ``out`` (folder), ``threads``. Of a second solve that takes too long
            nothing is reported.
    """
    out = Path(job["out"])
    out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(job["threads"])
    torch.manual_seed(0)
    problem = read_problem(Path(job["problem"]), DTYPES[job["dtype"]], job["count"], job.get("points"))
    # The thread pool and the BLAS start up outside of the time, for everyone.
    torch.randn(256, 256, dtype=problem.cold.dtype) @ torch.randn(256, 256, dtype=problem.cold.dtype)
    report: dict[str, Any] = {"status": "ok"}
    alarm = _Alarm()
    imported_before = set(sys.modules)
    # With the imports, the weights and the data: what comes on top of it is the solve's own.
    report["base_bytes"] = _peak_bytes()
    try:
        # Fused attention has no second derivative; what a contestant sets itself stands inside this.
        with sdpa_kernel(SDPBackend.MATH):
            started = _start(alarm, job["limit"])
            solver = adapter(problem, job["rtol"], **job["settings"])
            solution = solver.solve(problem.cold.clone())
            report["cold"] = _stop(started)
            report["facts"] = solver.facts()
            np.save(out / "cold.npy", solution.detach().numpy())
            if job["warm"] and report["cold"] <= job.get("warm_within", math.inf):
                started = _start(alarm, job["limit"])
                solution = solver.solve(problem.warm.clone())
                report["warm"] = _stop(started)
                report["warm_facts"] = solver.facts()
                np.save(out / "warm.npy", solution.detach().numpy())
    except Exception as error:
        # Compiled code turns the alarm's exception into one of its own.
        if not alarm.rang:
            report["status"] = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        elif "cold" not in report:
            report["status"] = "too long"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    report["imported"] = sorted(set(sys.modules) - imported_before)
    report["peak_bytes"] = _peak_bytes()
    (out / "report.json").write_text(json.dumps(report), encoding="utf-8")


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


class _Alarm:
    """What rings when a solve has run into its limit."""

    rang = False

    def __call__(self, *_: Any) -> None:
        self.rang = True
        raise TookTooLong


def _start(alarm: _Alarm, limit: float) -> float:
    signal.signal(signal.SIGALRM, alarm)
    signal.setitimer(signal.ITIMER_REAL, limit)
    return time.perf_counter()


def _stop(started: float) -> float:
    signal.setitimer(signal.ITIMER_REAL, 0)
    return time.perf_counter() - started

"""A solve, as a contestant's process is told of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from benchmarks.machine import usable_cores

__all__ = ["solve_job"]

RUNS: Final = Path(".bench/runs")


def solve_job(
    folder: Path, dtype: str, count: int, rtol: float, settings: dict[str, Any], *, limit: float, out: str, **more: Any
) -> dict[str, Any]:
    """For :class:`benchmarks.contestants.Server`: a cold solve of a problem's first right-hand sides, with all cores.

    Args:
        folder: The problem's files.
        dtype: ``float32`` or ``float64``.
        count: Right-hand sides.
        rtol: What is asked for.
        settings: What the adapter is given.
        limit: Seconds after which the solve is stopped.
        out: Folder under ``.bench/runs`` for report and solutions.
        more: ``warm`` for a second solve, ``points`` for a part of the data or copies of it, ``threads`` for fewer.
    """
    return {
        "problem": str(folder),
        "dtype": dtype,
        "count": count,
        "rtol": rtol,
        "settings": settings,
        "limit": limit,
        "warm": False,
        "out": str((RUNS / out).absolute()),
        "threads": usable_cores(),
        **more,
    }

"""What solving right-hand sides together wins: a block of k against k solves of one."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Final

from benchmarks.contestants import Server
from benchmarks.rows import TOLERANCES
from benchmarks.solve_job import solve_job

__all__ = ["block_speed_up"]

COUNTS: Final = (1, 4, 16, 64)
QUICK_COUNTS: Final = (1, 4, 16)
LIMIT: Final = 30.0
ROUNDS_SECONDS: Final = 15.0
"""No round begins later than this: long solves need repeats least."""


def block_speed_up(folder: Path, server: Server, *, repeats: int, quick: bool) -> list[dict[str, float]]:
    """Seconds of a cold solve of the first k right-hand sides by ``cg`` in float32, each in a process of its own.

    Returns:
        ``count``, ``seconds`` (the least of at most ``repeats`` rounds, in which all counts follow each other),
        ``iterations`` and ``products`` of each k that ended within the limit.
    """
    found: dict[int, dict[str, float]] = {}
    dropped: set[int] = set()
    began = time.monotonic()
    for _ in range(repeats):
        if time.monotonic() - began > ROUNDS_SECONDS:
            break
        for count in QUICK_COUNTS if quick else COUNTS:
            if count in dropped:
                continue
            settings = {"method": "cg"}
            report = server.run(
                solve_job(
                    folder, "float32", count, TOLERANCES["float32"], settings, limit=LIMIT, out="right-hand-sides"
                )
            )
            if report["status"] != "ok":
                dropped.add(count)
                continue
            facts = report["facts"]
            before = found.get(count, {}).get("seconds", report["cold"])
            found[count] = {
                "count": count,
                "seconds": min(before, report["cold"]),
                "iterations": facts["iterations"],
                "products": facts["products"],
            }
    return [found[count] for count in sorted(found)]

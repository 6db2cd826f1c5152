"""One cell of the table: all contestants on the same problem, interleaved, each judged by the same judge."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks.contestants import CONTESTANTS, Contestant, Server
from benchmarks.judge import Judge
from benchmarks.rows import DTYPES, TOLERANCES
from benchmarks.solve_job import solve_job

__all__ = ["Cell", "Entry", "race"]

REPEATS: Final = 3
QUICK_REPEATS: Final = 1
LIMIT: Final = 30.0
"""Seconds that a solve may take at most."""
BEHIND: Final = 8.0
"""How many times longer than the fastest of its side (ours, the peers) so far who solves one by one may take.

Who prepares itself in a slow first solve may win the second one, so all others have the whole limit.
"""
LEAST_LIMIT: Final = 5.0
"""Seconds that every solve may take."""
CLOSE: Final = 1.5
"""Who needs more times as long as the fastest of its side, cold and warm, is not run again: it decides no ratio."""
TIGHTENINGS: Final = 3
"""Times that a contestant whose solution misses the tolerance is asked again for less."""


@dataclass(frozen=True)
class Cell:
    """A row in one dtype with one number of right-hand sides.

    Attributes:
        folder: The problem's files.
        dtype: By its name.
        count: Right-hand sides.
        threads: Of each contestant.
        quick: Whether nothing is repeated.
        limit: Seconds that a solve may take at most.
    """

    folder: Path
    dtype: str
    count: int
    threads: int
    quick: bool
    limit: float = LIMIT


@dataclass
class Entry:
    """What came of one contestant in a cell.

    Attributes:
        cold: Seconds of each first solve on a model.
        warm: Seconds of each second solve, with other right-hand sides.
        residual: The worst relative residual of all judged solutions, recomputed.
        reached: Whether that meets the tolerance.
        rtol: The tolerance that it was given to get there.
        iterations: Of the first solve, as far as it tells.
        remark: Why there is no time, or the tolerance was not met.
        predicted: Seconds that the solve would have taken, by extrapolation, where it was not run.
        facts: What it says about its last solves.
        spent: Seconds that all its runs took in this cell, with starts and judging.
    """

    cold: list[float]
    warm: list[float]
    residual: float | None = None
    reached: bool = False
    rtol: float | None = None
    iterations: int | None = None
    remark: str | None = None
    predicted: float | None = None
    facts: dict[str, Any] | None = None
    spent: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready, with medians."""
        medians = {
            f"{which}_median": statistics.median(seconds) if seconds else None
            for which, seconds in (("cold", self.cold), ("warm", self.warm))
        }
        return {**asdict(self), **medians}


def race(
    cell: Cell,
    servers: Mapping[str, Server],
    missing: Mapping[str, str],
    earlier: Mapping[str, dict[str, Any]] | None,
    tell: Callable[[str], None],
) -> dict[str, dict[str, Any]]:
    """Runs everyone, first until the tolerance is met, then again for the medians.

    Args:
        cell: What is solved.
        servers: A process for each adapter.
        missing: Why some adapters have none.
        earlier: The same row's and dtype's entries with fewer right-hand sides, and ``count``, if there are any.
        tell: Where a line of progress goes.
    """
    judge = Judge(cell.folder, DTYPES[cell.dtype], cell.count)
    entries: dict[str, Entry] = {}
    for number, contestant in enumerate(CONTESTANTS, 1):
        began = time.monotonic()
        if contestant.adapter in missing:
            entry = Entry([], [], remark=missing[contestant.adapter])
        else:
            limit = _limit(cell, contestant, entries)
            entry = _skipped(contestant, cell, earlier, limit) or _first(
                contestant, cell, servers[contestant.adapter], judge, earlier, limit
            )
        entry.spent = time.monotonic() - began
        entries[contestant.name] = entry
        tell(f"  {number}/{len(CONTESTANTS)} {_line(contestant, entry)} ({entry.spent:.0f} s)")
    again = [contestant for contestant in CONTESTANTS if _decides(contestant, entries)]
    for repeat in range(2, 1 + (QUICK_REPEATS if cell.quick else REPEATS)):
        tell(f"  repeat {repeat} of {REPEATS}: {', '.join(contestant.name for contestant in again)}")
        # Every other round backwards, so that whoever follows a hot neighbour is not always the same.
        for contestant in again if repeat % 2 else reversed(again):
            began = time.monotonic()
            entry = entries[contestant.name]
            assert entry.rtol is not None
            report = servers[contestant.adapter].run(_job(contestant, cell, entry.rtol, cell.limit))
            if report["status"] == "ok":
                entry.cold.append(report["cold"])
                entry.warm.append(report["warm"])
            entry.spent += time.monotonic() - began
    return {name: entry.as_dict() for name, entry in entries.items()}


def _fastest(which: str, entries: Mapping[str, Entry], *, ours: bool) -> float:
    """The least seconds of a side in its first runs, of those that met the tolerance; infinite if none has yet."""
    side = [entry for contestant in CONTESTANTS if contestant.ours == ours and (entry := entries.get(contestant.name))]
    return min((getattr(entry, which)[0] for entry in side if entry.reached), default=math.inf)


def _limit(cell: Cell, contestant: Contestant, entries: Mapping[str, Entry]) -> float:
    """Seconds for a solve: who cannot decide a ratio any more is not waited for."""
    if not contestant.one_by_one:
        return cell.limit
    return min(cell.limit, max(LEAST_LIMIT, BEHIND * _fastest("cold", entries, ours=contestant.ours)))


def _decides(contestant: Contestant, entries: Mapping[str, Entry]) -> bool:
    """Whether it is the fastest of its side, cold or warm, or close to it."""
    entry = entries[contestant.name]
    return entry.reached and any(
        getattr(entry, which)[0] <= CLOSE * _fastest(which, entries, ours=contestant.ours)
        for which in ("cold", "warm")
    )


def _skipped(
    contestant: Contestant, cell: Cell, earlier: Mapping[str, dict[str, Any]] | None, limit: float
) -> Entry | None:
    """An entry by extrapolation, where fewer right-hand sides were already too many; only of who solves one by one."""
    before = (earlier or {}).get(contestant.name)
    if not before or not contestant.one_by_one:
        return None
    growth = cell.count / before["count"]
    if before["cold_median"] is not None:
        # The set-up does not grow.
        predicted = before["cold_median"] + (growth - 1) * before["warm_median"]
    elif before["predicted"] is not None:
        predicted = before["predicted"] * growth
    else:
        return Entry([], [], remark=before["remark"])
    if predicted <= limit:
        return None
    return Entry([], [], predicted=predicted, remark=_too_long(limit))


def _too_long(limit: float) -> str:
    return f"> {limit:.0f} s"


def _first(
    contestant: Contestant,
    cell: Cell,
    server: Server,
    judge: Judge,
    earlier: Mapping[str, dict[str, Any]] | None,
    limit: float,
) -> Entry:
    asked = TOLERANCES[cell.dtype]
    rtol = ((earlier or {}).get(contestant.name) or {}).get("rtol") or asked
    entry = Entry([], [])
    for _ in range(TIGHTENINGS):
        job = _job(contestant, cell, rtol, limit)
        report = server.run(job)
        if report["status"] != "ok":
            remark = _too_long(limit) if report["status"] == "too long" else report["status"]
            if not entry.cold:
                return Entry([], [], remark=remark)
            entry.remark = f"stops at {entry.residual:.1e}; asked for less: {remark}"
            return entry
        found = [r for which in ("cold", "warm") for r in judge.residuals(which, Path(job["out"]) / f"{which}.npy")]
        worst = max(found) if all(map(math.isfinite, found)) else math.inf
        entry = Entry(
            [report["cold"]],
            [report["warm"]],
            residual=worst if math.isfinite(worst) else None,
            reached=worst <= asked,
            rtol=rtol,
            iterations=report["facts"]["iterations"],
            facts={"cold": report["facts"], "warm": report["warm_facts"], "peak_bytes": report["peak_bytes"]},
        )
        if entry.reached:
            return entry
        entry.remark = f"stops at {worst:.1e}"
        rtol *= min(0.7, 0.7 * asked / worst) if math.isfinite(worst) else 0.1
    return entry


def _job(contestant: Contestant, cell: Cell, rtol: float, limit: float) -> dict[str, Any]:
    job = solve_job(
        cell.folder,
        cell.dtype,
        cell.count,
        rtol,
        contestant.settings,
        limit=limit,
        out=contestant.adapter,
        warm=True,
    )
    return {**job, "threads": cell.threads}


def _line(contestant: Contestant, entry: Entry) -> str:
    if not entry.cold:
        return f"{contestant.name}: {entry.remark}"
    residual = "not finite" if entry.residual is None else f"{entry.residual:.1e}"
    return f"{contestant.name}: cold {entry.cold[0]:.2f} s, warm {entry.warm[0]:.2f} s, residual {residual}"

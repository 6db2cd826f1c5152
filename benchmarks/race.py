"""One cell of the table: all contestants on the same problem, interleaved, each judged by the same judge."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks.contestants import CONTESTANTS, Contestant, Server, taking_part
from benchmarks.judge import Judge
from benchmarks.rows import DTYPES, TOLERANCES
from benchmarks.solve_job import solve_job

__all__ = ["Cell", "Entry", "race"]

REPEATS: Final = 3
QUICK_REPEATS: Final = 1
LIMIT: Final = 30.0
"""Seconds that a solve may take at most."""
FAR: Final = 4.0
"""How many times longer than the fastest of its side (ours, the peers) so far who keeps nothing may take.

Who prepares itself in a slow first solve may win the second one, so all others have the whole limit.
"""
LEAST_LIMIT: Final = 5.0
"""Seconds that every solve may take."""
SLOW: Final = 2.0
"""Who needs more times as long as the fastest of its side can win nothing by another run.

Neither by one with a smaller tolerance, which takes longer still, nor, if it keeps nothing, by a second solve. Who was
slow in both solves of a block is not run with larger ones either.
"""
SHORT: Final = 1.0
"""Seconds of a solve that is repeated in any case."""
CLOSE: Final = 1.25
"""Who needs more times as long as the fastest of its side, cold and warm, is not run again: it decides no ratio."""
LONG: Final = 6.0
"""Seconds that a contestant's solves of one run may take together to be repeated: long ones need it least."""
TIGHTENINGS: Final = 3
"""Times that a contestant whose solution misses the tolerance is asked again for less."""
OTHER_PRODUCTS: Final = 3.0
"""How many times its own residual the judge's may be; from there on asking for less changes nothing."""


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
        warm: Seconds of each second solve, with other right-hand sides; there may be fewer of them.
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
    contestants = taking_part(CONTESTANTS, judge.parameters, DTYPES[cell.dtype].itemsize)
    entries: dict[str, Entry] = {}
    for number, contestant in enumerate(contestants, 1):
        began = time.monotonic()
        if contestant.adapter in missing:
            entry = Entry([], [], remark=missing[contestant.adapter])
        else:
            limit = _limit(cell, contestant, entries)
            entry = _skipped(contestant, cell, earlier, limit) or _first(
                contestant, cell, servers[contestant.adapter], judge, earlier, limit, entries
            )
        entry.spent = time.monotonic() - began
        entries[contestant.name] = entry
        tell(f"  {number}/{len(contestants)} {_line(contestant, entry)} ({entry.spent:.0f} s)")
    again = [
        (contestant, ways)
        for contestant in contestants
        if (ways := _decides(contestant, entries)) and _seconds_of(entries[contestant.name], ways) <= LONG
    ]
    later: dict[str, list[dict[str, Any]]] = {contestant.name: [] for contestant, _ in again}
    for repeat in range(2, 1 + (QUICK_REPEATS if cell.quick or not again else REPEATS)):
        tell(f"  run {repeat} of {REPEATS}: {', '.join(contestant.name for contestant, _ in again)}")
        # Every other round backwards, so that whoever follows a hot neighbour is not always the same.
        for contestant, ways in again if repeat % 2 else reversed(again):
            began = time.monotonic()
            entry = entries[contestant.name]
            assert entry.rtol is not None
            job = {**_job(contestant, cell, entry.rtol, cell.limit), "warm": "warm" in ways}
            report = servers[contestant.adapter].run(job)
            if report["status"] == "ok":
                entry.cold.append(report["cold"])
                entry.warm += [report["warm"]] if "warm" in report else []
                later[contestant.name].append(report)
            entry.spent += time.monotonic() - began
    for name, reports in later.items():
        _median_facts(entries[name], reports)
    return {name: entry.as_dict() for name, entry in entries.items()}


def _fastest(which: str, entries: Mapping[str, Entry], *, ours: bool) -> float:
    """The least seconds of a side in its first runs, of those that met the tolerance; infinite if none has yet."""
    side = [entry for contestant in CONTESTANTS if contestant.ours == ours and (entry := entries.get(contestant.name))]
    return min(
        (seconds[0] for entry in side if entry.reached and (seconds := getattr(entry, which))), default=math.inf
    )


def _limit(cell: Cell, contestant: Contestant, entries: Mapping[str, Entry]) -> float:
    """Seconds for a solve: who cannot decide a ratio any more is not waited for."""
    if contestant.keeps:
        return cell.limit
    return min(cell.limit, max(LEAST_LIMIT, FAR * _fastest("cold", entries, ours=contestant.ours)))


def _within(times: float, which: str, contestant: Contestant, entries: Mapping[str, Entry]) -> float:
    """Seconds that are at most so many times those of the fastest of its side, or short."""
    return max(SHORT, times * _fastest(which, entries, ours=contestant.ours))


def _decides(contestant: Contestant, entries: Mapping[str, Entry]) -> set[str]:
    """Where it is the fastest of its side or close to it: cold, warm, both or neither."""
    entry = entries[contestant.name]
    if not entry.reached:
        return set()
    return {
        which
        for which, seconds in (("cold", entry.cold), ("warm", entry.warm))
        if seconds and seconds[0] <= CLOSE * _fastest(which, entries, ours=contestant.ours)
    }


def _seconds_of(entry: Entry, ways: set[str]) -> float:
    """Of its first run, as far as that is repeated: a second solve needs the first one before it."""
    return entry.cold[0] + (entry.warm[0] if "warm" in ways else 0.0)


def _skipped(
    contestant: Contestant, cell: Cell, earlier: Mapping[str, dict[str, Any]] | None, limit: float
) -> Entry | None:
    """An entry without a run, where fewer right-hand sides were already too many to decide a ratio."""
    before = (earlier or {}).get(contestant.name)
    if not before or not earlier:
        return None
    growth = cell.count / before["count"]
    if before["cold_median"] is None and before["predicted"] is None:
        remark: str = before["remark"]
        named = not remark.startswith(">") or " with " in remark
        return Entry([], [], remark=remark if named else f"{remark} with {before['count']}")
    if not contestant.one_by_one:
        slow = _was_slow(contestant, earlier)
        return Entry([], [], remark=f"> {SLOW:g} × the fastest with {before['count']}") if slow else None
    if before["cold_median"] is not None:
        # The set-up does not grow.
        predicted = before["cold_median"] + (growth - 1) * (before["warm_median"] or before["cold_median"])
    else:
        predicted = before["predicted"] * growth
    if predicted <= limit:
        return None
    return Entry([], [], predicted=predicted, remark=_too_long(limit))


def _was_slow(contestant: Contestant, earlier: Mapping[str, dict[str, Any]]) -> bool:
    """Whether both solves took far longer than the fastest block of its side, with fewer right-hand sides.

    One right-hand side alone says nothing of blocks.
    """
    side = [
        entry for c in CONTESTANTS if c.ours == contestant.ours and not c.one_by_one and (entry := earlier.get(c.name))
    ]
    before = earlier[contestant.name]
    return before["count"] > 1 and all(
        before[which] is None
        or before[which] > SLOW * min((e[which] for e in side if e["reached"] and e[which]), default=math.inf)
        for which in ("cold_median", "warm_median")
    )


def _median_facts(entry: Entry, later: Sequence[Mapping[str, Any]]) -> None:
    """What the entry says of a solve becomes what the run of its median said, or the one just below it."""
    assert entry.facts is not None
    for which, name in (("cold", "facts"), ("warm", "warm_facts")):
        taken = getattr(entry, which)
        if taken:
            said = [entry.facts[which], *(report[name] for report in later if name in report)]
            entry.facts[which] = said[taken.index(statistics.median_low(taken))]


def _too_long(limit: float) -> str:
    return f"> {limit:.0f} s"


def _first(
    contestant: Contestant,
    cell: Cell,
    server: Server,
    judge: Judge,
    earlier: Mapping[str, dict[str, Any]] | None,
    limit: float,
    entries: Mapping[str, Entry],
) -> Entry:
    asked = TOLERANCES[cell.dtype]
    rtol = ((earlier or {}).get(contestant.name) or {}).get("rtol") or asked
    entry = Entry([], [])
    for _ in range(TIGHTENINGS):
        job = _job(contestant, cell, rtol, limit)
        if not contestant.keeps:
            job["warm_within"] = _within(SLOW, "warm", contestant, entries)
        report = server.run(job)
        if report["status"] != "ok":
            remark = _too_long(limit) if report["status"] == "too long" else report["status"]
            if not entry.cold:
                return Entry([], [], remark=remark)
            entry.remark = f"stops at {entry.residual:.1e}; asked for less: {remark}"
            return entry
        solved = [which for which in ("cold", "warm") if which in report]
        found = [r for which in solved for r in judge.residuals(which, Path(job["out"]) / f"{which}.npy")]
        worst = max(found) if all(map(math.isfinite, found)) else math.inf
        entry = Entry(
            [report["cold"]],
            [report["warm"]] if "warm" in report else [],
            residual=worst if math.isfinite(worst) else None,
            reached=worst <= asked,
            rtol=rtol,
            iterations=report["facts"]["iterations"],
            facts={
                "cold": report["facts"],
                "warm": report.get("warm_facts"),
                "peak_bytes": report["peak_bytes"],
            },
        )
        if entry.reached:
            return entry
        entry.remark = f"stops at {worst:.1e}"
        own = report["facts"].get("own_residual")
        if own is not None and own <= 2 * asked and worst > OTHER_PRODUCTS * max(own, asked):
            entry.remark = f"{entry.remark}; at {own:.1e} by its own products, which are not the judge's"
            return entry
        if contestant.dense:
            return entry
        if all(
            seconds[0] > _within(SLOW, which, contestant, entries)
            for which, seconds in (("cold", entry.cold), ("warm", entry.warm))
            if seconds
        ):
            entry.remark = f"{entry.remark}, too slow for being asked for less"
            return entry
        rtol *= min(0.7, 0.7 * asked / worst) if math.isfinite(worst) else 0.1
    return entry


def _job(contestant: Contestant, cell: Cell, rtol: float, limit: float) -> dict[str, Any]:
    return solve_job(
        cell.folder,
        cell.dtype,
        cell.count,
        rtol,
        contestant.settings,
        limit=limit,
        out=contestant.adapter,
        warm=True,
        threads=cell.threads,
    )


def _line(contestant: Contestant, entry: Entry) -> str:
    if not entry.cold:
        return f"{contestant.name}: {entry.remark}"
    residual = "not finite" if entry.residual is None else f"{entry.residual:.1e}"
    warm = f"{entry.warm[0]:.2f} s" if entry.warm else "not run"
    return f"{contestant.name}: cold {entry.cold[0]:.2f} s, warm {warm}, residual {residual}"

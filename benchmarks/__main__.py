"""``python -m benchmarks``: runs rows of the table and writes ``results.json``, ``results.md`` and the plots."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, Final, TypeAlias

from benchmarks.coalescing import measure_coalescing
from benchmarks.contestants import CONTESTANTS, Server
from benchmarks.curves.measure import CURVES, CurveInputs, measure_curve
from benchmarks.machine import describe_machine, usable_cores
from benchmarks.plots import draw_plots
from benchmarks.problem_files import read_problem
from benchmarks.race import LIMIT, Cell, race
from benchmarks.readme import write_readme
from benchmarks.report import write_report
from benchmarks.results import FOLDER, read_results, write_results
from benchmarks.rows import COUNTS, DTYPES, ROWS, Row
from benchmarks.schedule import Schedule, Step, minutes
from benchmarks.training import prepare_problem

PROBLEMS: Final = Path(".bench/problems")
PARTIAL: Final = Path(".bench/partial")
ONLY: Final = ("table", "curves", "overhead", "coalescing", "report")
ALL_ROWS: Final = "all rows"
START: Final = "prepare"
COALESCING: Final = "coalescing"

Started: TypeAlias = tuple[dict[str, Server], dict[str, str]]
"""A process for each adapter, and why some adapters have none."""


@dataclass(frozen=True)
class Plan:
    """What is to be run.

    Attributes:
        rows: Of the table.
        dtypes: Names of dtypes.
        counts: Numbers of right-hand sides.
        curves: Names of curves.
        coalescing: Whether to measure it.
        quick: Whether nothing is repeated.
        limit: Seconds that a solve may take.
        out: Folder of the results.
    """

    rows: Sequence[Row]
    dtypes: Sequence[str]
    counts: Sequence[int]
    curves: Sequence[str]
    coalescing: bool
    quick: bool
    limit: float
    out: Path

    def steps(self) -> list[Step]:
        """All there is to do, in its order."""
        names = [START, *(f"{dtype}/{count}" for dtype in self.dtypes for count in self.counts), *self.curves]
        steps = [Step(row.name, name) for row in self.rows for name in names]
        return steps + ([Step(ALL_ROWS, COALESCING)] if self.coalescing else [])


def main() -> None:
    """Parses the arguments and runs."""
    plan = _parsed()
    earlier = {
        Step(row, name): seconds
        for row, part in read_results(plan.out).get("seconds", {}).items()
        for name, seconds in part.items()
    }
    steps = plan.steps()
    schedule = Schedule(steps, earlier, _tell)
    with ExitStack() as stack:
        # A process for all rows: what a contestant imports on its way is then imported once.
        started = cache(partial(_started, stack))
        for row in plan.rows:
            _run_row(row, plan, schedule, started)
    if plan.coalescing:
        with schedule.step(Step(ALL_ROWS, COALESCING)):
            measured = measure_coalescing(PROBLEMS, quick=plan.quick, tell=_tell)
        part = {"machine": describe_machine(), "quick": plan.quick, "networks": measured}
        _merge(plan.out, schedule, COALESCING, part)
    results = read_results(plan.out)
    draw_plots(results, plan.out / "plots")
    write_report(results, plan.out)
    if plan.out == FOLDER:
        write_readme(results)
    if steps:
        _tell(f"done in {minutes(schedule.elapsed)}; see {plan.out / 'results.md'}")


def _parsed() -> Plan:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--row", choices=sorted(ROWS), help="one row; all of them if left out")
    parser.add_argument("--quick", action="store_true", help="nothing is repeated, and curves have fewer points")
    parser.add_argument("--only", choices=ONLY, help="one part; all of them if left out")
    parser.add_argument("--dtype", choices=sorted(DTYPES), help="one dtype of the table")
    parser.add_argument("--count", type=int, choices=COUNTS, help="one number of right-hand sides of the table")
    parser.add_argument("--limit", type=float, default=LIMIT, help="seconds that a solve may take (%(default)g)")
    parser.add_argument(
        "--out", type=Path, help=f"folder of the results; {PARTIAL} if the table is not run as it stands"
    )
    given = parser.parse_args()
    if not given.limit > 0:
        parser.error(f"--limit has to be above 0 seconds; given: {given.limit:g}")
    partial = given.dtype or given.count or given.limit != LIMIT
    rows = [ROWS[given.row]] if given.row else list(ROWS.values())
    table = given.only in (None, "table")
    curves = {None: tuple(CURVES), "curves": tuple(CURVES), "overhead": ("overhead",)}.get(given.only, ())
    return Plan(
        rows=rows if table or curves else [],
        dtypes=([given.dtype] if given.dtype else list(DTYPES)) if table else [],
        counts=([given.count] if given.count else COUNTS) if table else [],
        curves=curves,
        coalescing=given.only == COALESCING or (given.only in (None, "curves") and given.row in (None, "digits-mlp")),
        quick=given.quick,
        limit=given.limit,
        out=given.out or (PARTIAL if partial else FOLDER),
    )


def _run_row(row: Row, plan: Plan, schedule: Schedule, started: Callable[[], Started]) -> None:
    folder = PROBLEMS / row.name
    part: dict[str, Any] = {"cells": {}, "curves": {}, **read_results(plan.out)["rows"].get(row.name, {})}
    with schedule.step(Step(row.name, START)):
        _tell(f"{row.name}: {row.title}")
        prepare_problem(row, folder)
        servers, missing = started()
        facts = {"machine": describe_machine(), "quick": plan.quick}
        part["problem"] = _facts(row, folder)
    for dtype in plan.dtypes:
        earlier: dict[str, dict[str, Any]] = {}
        for count in plan.counts:
            key = f"{dtype}/{count}"
            with schedule.step(Step(row.name, key)):
                cell = Cell(folder, dtype, count, usable_cores(), plan.quick, plan.limit)
                entries = race(cell, servers, missing, earlier, _tell)
            earlier = {name: {**entry, "count": count} for name, entry in entries.items()}
            part["cells"][key] = entries
            part.update(facts)
            _merge(plan.out, schedule, row.name, part)
    for name in plan.curves:
        with schedule.step(Step(row.name, name)):
            part["curves"][name] = measure_curve(name, CurveInputs(row, folder, servers, plan.quick))
        part["curves"]["measured"] = facts
        part.setdefault("machine", facts["machine"])
        part.setdefault("quick", plan.quick)
        _merge(plan.out, schedule, row.name, part)


def _started(stack: ExitStack) -> Started:
    """A process for each adapter, or why it has none."""
    servers: dict[str, Server] = {}
    missing: dict[str, str] = {}
    for contestant in {c.adapter: c for c in CONTESTANTS}.values():
        reason = contestant.missing()
        if reason is None:
            try:
                servers[contestant.adapter] = stack.enter_context(Server(contestant))
            except RuntimeError as error:
                reason = f"cannot be imported: {error}"
        if reason is not None:
            missing[contestant.adapter] = reason
    return servers, missing


def _merge(out: Path, schedule: Schedule, name: str, part: Mapping[str, Any]) -> None:
    """Writes a row's part, or what belongs to none, after every step: a run that is stopped leaves what it has."""
    # Read again: another row may have been written while this one ran.
    results = read_results(out)
    if name in ROWS:
        results["rows"][name] = part
    else:
        results[name] = part
    for row, seconds in schedule.seconds.items():
        results.setdefault("seconds", {}).setdefault(row, {}).update(seconds)
    write_results(results, out)


def _facts(row: Row, folder: Path) -> dict[str, Any]:
    problem = read_problem(folder, DTYPES["float32"], 1)
    return {
        "title": row.title,
        "p": problem.cold.shape[1],
        "n": problem.x.shape[0],
        "damping": problem.damping,
        "why": row.why,
        "architecture": row.architecture,
    }


def _tell(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    main()

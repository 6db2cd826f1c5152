"""``python -m benchmarks``: runs rows of the table and writes ``results.json``, ``results.md`` and the plots."""

from __future__ import annotations

import argparse
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.contestants import CONTESTANTS, Server
from benchmarks.curves.measure import measure_curves
from benchmarks.machine import describe_machine, usable_cores
from benchmarks.plots import draw_plots
from benchmarks.problem_files import read_problem
from benchmarks.race import Cell, race
from benchmarks.report import write_report
from benchmarks.results import read_results, write_results
from benchmarks.rows import COUNTS, DTYPES, ROWS, Row
from benchmarks.training import prepare_problem

PROBLEMS = Path(".bench/problems")


def main() -> None:
    """Parses the arguments and runs."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--row", choices=sorted(ROWS), help="one row; all of them if left out")
    parser.add_argument("--quick", action="store_true", help="one repeat, and no curves that need minutes")
    parser.add_argument("--only", choices=("table", "curves", "report"), help="one part; all of them if left out")
    arguments = parser.parse_args()
    rows = [ROWS[arguments.row]] if arguments.row else list(ROWS.values())
    for row in rows if arguments.only != "report" else []:
        _run_row(row, quick=arguments.quick, only=arguments.only)
    results = read_results()
    draw_plots(results)
    write_report(results)


def _run_row(row: Row, *, quick: bool, only: str | None) -> None:
    started = time.monotonic()
    _tell(f"{row.name}: {row.title}")
    folder = PROBLEMS / row.name
    prepare_problem(row, folder)
    results = read_results()
    part: dict[str, Any] = results["rows"].get(row.name, {"cells": {}, "curves": {}})
    part["machine"] = describe_machine()
    part["quick"] = quick
    part["problem"] = _facts(row, folder)
    with ExitStack() as stack:
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
        if only != "curves":
            part["cells"] = _run_cells(row, folder, servers, missing, quick=quick)
        if only != "table":
            part["curves"] = measure_curves(row, folder, servers, quick=quick, tell=_tell)
    part["seconds"] = time.monotonic() - started
    # Read again: another row may have been written while this one ran.
    results = read_results()
    results["rows"][row.name] = part
    write_results(results)
    _tell(f"{row.name}: {part['seconds']:.0f} s altogether")


def _run_cells(
    row: Row, folder: Path, servers: dict[str, Server], missing: dict[str, str], *, quick: bool
) -> dict[str, Any]:
    cells: dict[str, Any] = {}
    for dtype in DTYPES:
        earlier: dict[str, dict[str, Any]] = {}
        for count in COUNTS:
            _tell(f"{row.name}, {dtype}, {count} right-hand sides")
            cell = Cell(folder, dtype, count, usable_cores(), quick)
            entries = race(cell, servers, missing, earlier, _tell)
            cells[f"{dtype}/{count}"] = entries
            earlier = {name: {**entry, "count": count} for name, entry in entries.items()}
    return cells


def _facts(row: Row, folder: Path) -> dict[str, Any]:
    problem = read_problem(folder, DTYPES["float32"], 1)
    return {
        "title": row.title,
        "p": problem.cold.shape[1],
        "n": problem.x.shape[0],
        "damping": problem.damping,
        "architecture": row.architecture,
    }


def _tell(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    main()

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.coalescing import ARMS
from benchmarks.plots import draw_plots
from benchmarks.readme import BEGIN, END, README, readme_block, write_readme
from benchmarks.report import explain_miss, write_report
from benchmarks.report_curves import PLOTS
from benchmarks.results import FOLDER, best, read_results, write_results


def _entry(cold: float, warm: float, *, reached: bool = True) -> dict[str, Any]:
    info = {"timings": {"linearise": 0.25, "solve": 1.0}, "strategy": {"product": "graph"}}
    facts = {"iterations": 12, "status": "converged", "products": 80, "product_seconds": 0.8, "info": info}
    return {
        "cold": [cold],
        "warm": [warm],
        "cold_median": cold,
        "warm_median": warm,
        "residual": 3e-6 if reached else 2e-3,
        "reached": reached,
        "rtol": 1e-5,
        "iterations": 12,
        "remark": None if reached else "stops at 2.0e-03",
        "predicted": None,
        "facts": {"cold": facts, "warm": facts, "peak_bytes": 1},
    }


CELL = {"ihvp cg": _entry(1.0, 0.5), "slow": _entry(8.0, 6.0), "wrong": _entry(0.1, 0.1, reached=False)}


def _results(name: str) -> dict[str, Any]:
    machine = {
        "date": "2026-01-01",
        "commit": "abc",
        "processor": "x",
        "cores": 2,
        "memory_bytes": 2**30,
        "system": "Linux",
        "python": "3.11",
        "torch": "2.13.0",
        "peers": {},
    }
    problem = {"title": "a network", "p": 650, "n": 1500, "damping": 0.01}
    return {
        "rows": {
            name: {
                "machine": machine,
                "problem": problem,
                "quick": True,
                "cells": {"float32/16": CELL},
                "curves": {},
            }
        }
    }


def test_who_misses_the_tolerance_is_no_fastest_peer() -> None:
    assert best(CELL, "cold", ours=False) == ("slow", 8.0)


def test_a_missed_bar_is_explained_by_where_the_time_went_and_a_met_one_is_not() -> None:
    assert explain_miss(CELL, "cold") is None
    assert explain_miss(CELL, "warm") is None
    closer = {**CELL, "slow": _entry(2.0, 2.0)}
    explained = explain_miss(closer, "cold")
    assert explained is not None
    assert "2.0× of 3×" in explained
    assert "12 iterations" in explained
    assert "80 products of 10.0 ms" in explained
    assert "solve 1.00 s" in explained
    assert "graph" in explained


def test_a_missed_bar_of_a_dense_solver_is_explained_by_its_products_and_parts(tmp_path: Path) -> None:
    direct, peer = _entry(0.5, 0.01), _entry(0.4, 0.002)
    direct["facts"]["warm"] |= {"iterations": None, "products": 4, "product_seconds": 0.004}
    peer["facts"]["warm"] = {"iterations": None, "info": {"timings": {"solve": 0.0018}}}
    cell = {"ihvp direct": direct, "pydvl direct": peer}
    explained = explain_miss(cell, "warm")
    assert explained is not None
    assert explained.startswith("warm 0.2× of 10×. ihvp direct, 10.0 ms: 4 products of 1.0 ms")
    assert explained.endswith("pydvl direct, 2.0 ms: solve 1.8 ms")
    results = _results("digits-softmax")
    results["rows"]["digits-softmax"]["cells"]["float32/16"] = cell
    write_report(results, tmp_path)
    text = (tmp_path / "results.md").read_text(encoding="utf-8")
    assert f"* float32, 16: {explained}." in text
    assert "| float32 | 16 | pydvl direct | 0.40 s | 2.0 ms | direct | 0.50 s | 10.0 ms | 0.8 | 0.2 |" in text


def test_the_report_says_what_was_measured_and_the_results_come_back(tmp_path: Path) -> None:
    results = _results("digits-softmax")
    write_results(results, tmp_path)
    assert read_results(tmp_path) == results
    write_report(results, tmp_path)
    text = (tmp_path / "results.md").read_text(encoding="utf-8")
    assert "| float32 | 16 | slow | 8.00 s | 6.00 s | cg | 1.00 s | 0.50 s | **8.0** | **12.0** |" in text
    assert "cold ≥ 3×: met in 1 of 1 cells" in text
    assert "stops at 2.0e-03" in text


def test_who_cannot_run_a_row_is_named_with_the_reason_it_gave(tmp_path: Path) -> None:
    results = _results("digits-softmax")
    absent = {**_entry(1.0, 1.0), "cold": [], "cold_median": None, "warm_median": None, "reached": False}
    absent |= {"remark": "RuntimeError: no derivative of attention", "facts": None, "residual": None}
    results["rows"]["digits-softmax"]["cells"]["float32/16"]["peer"] = absent
    write_report(results, tmp_path)
    text = (tmp_path / "results.md").read_text(encoding="utf-8")
    assert "* peer: RuntimeError: no derivative of attention." in text


def test_curves_coalescing_and_the_time_of_the_run_are_told_and_every_plot_is_named(tmp_path: Path) -> None:
    results = _results("digits-softmax")
    results["rows"]["digits-softmax"]["curves"] = {
        "points": [
            {"points": n, "seconds": n / 100, "iterations": 10, "base_bytes": 2**27, "peak_bytes": 2**27 + 2**24}
            for n in (100, 200, 400)
        ],
        "parameters": [{"parameters": p, "seconds": p**2 / 1e6} for p in (100, 1000)],
        "right_hand_sides": [{"count": k, "seconds": k**0.5, "iterations": 9, "products": 9 * k} for k in (1, 4, 16)],
        "overhead": {
            "rounds": 9,
            "seconds": 0.5,
            "iterations": 8,
            "spread": 0.01,
            "writes": 1.06,
            "callbacks": {
                "history": {"ratio": 0.001, "inside": 0.0001, "milliseconds": 0.003},
                "service": {"ratio": 0.05, "inside": 0.04, "milliseconds": 1.0},
            },
        },
        "residuals": {"ihvp cg": [[0.1, 0.5], [0.2, 1e-5]], "slow": [[1.0, 1e-5]]},
        "products": {"1": {"gradient": 0.01, "strategies": {"graph": 1.5, "forward": "no such thing"}, "auto": {}}},
    }
    ways = {
        name: {"seconds": [s], "median": s, "products": 9.0} for name, s in zip(ARMS, (1.0, 3.0, 9.0), strict=True)
    }
    results["coalescing"] = {"quick": True, "networks": [{"parameters": 610, "hidden": [8], "ways": ways}]}
    results["seconds"] = {"digits-softmax": {"prepare": 5.0, "float32/16": 90.0, "right_hand_sides": 25.0}}
    draw_plots(results, tmp_path / "plots")
    write_report(results, tmp_path)
    text = (tmp_path / "results.md").read_text(encoding="utf-8")
    assert "| n^1.00 | 16 – 16 MiB | 100 – 1,000 | p^2.00 |" in text
    assert "2.0× (2.00 s) | 4.0× (4.00 s) |" in text
    assert "| **0.01 %** | +0.1 % | 4.00 % | +5.0 % | 1.1 | +1.0 % |" in text
    assert "| 610 | 1.00 s (9) | 3.00 s (9) | 9.00 s (9) | 3.0 | **9.0** |" in text
    assert "| digits-softmax | 1:30 | prepare 0:05, right hand sides 0:25 | 2:00 |" in text
    drawn = {path.stem for path in (tmp_path / "plots").glob("*.png")}
    assert drawn == set(PLOTS)
    assert all(f"(plots/{name}.png)" in text for name in drawn)


def test_the_committed_documents_are_rendered_from_the_committed_results(tmp_path: Path) -> None:
    results = read_results()
    assert readme_block(results) in README.read_text(encoding="utf-8"), "run ONLY=report make bench"
    (tmp_path / "plots").symlink_to(FOLDER / "plots")
    write_report(results, tmp_path)
    rendered = (tmp_path / "results.md").read_text(encoding="utf-8")
    assert rendered == (FOLDER / "results.md").read_text(encoding="utf-8"), "run ONLY=report make bench"


def test_the_readme_gets_a_new_table_and_keeps_the_rest(tmp_path: Path) -> None:
    path = tmp_path / "README.md"
    path.write_text(f"before\n\n{BEGIN}\nyesterday's\n{END}\n\nafter\n", encoding="utf-8")
    write_readme(_results("digits-mlp"), path)
    text = path.read_text(encoding="utf-8")
    assert text.startswith("before\n\n<!--")
    assert text.endswith("-->\n\nafter\n")
    assert "| digits-mlp | float32 | 16 | slow | 8.00 s | 6.00 s | cg |" in text
    assert "yesterday" not in text
    path.write_text("nothing", encoding="utf-8")
    with pytest.raises(ValueError, match="no place"):
        write_readme(_results("digits-mlp"), path)

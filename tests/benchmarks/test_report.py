from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.report import explain_miss, write_report
from benchmarks.results import best, read_results, write_results


def _entry(cold: float, warm: float, *, reached: bool = True) -> dict[str, Any]:
    info = {"timings": {"linearise": 0.25, "solve": 1.0}, "strategy": {"product": "graph"}}
    facts = {"iterations": 12, "status": "converged", "info": info}
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
    assert "solve 1.00 s" in explained
    assert "graph" in explained


def test_the_report_says_what_was_measured_and_the_results_come_back(tmp_path: Path) -> None:
    results = _results("digits-softmax")
    write_results(results, tmp_path)
    assert read_results(tmp_path) == results
    write_report(results, tmp_path)
    text = (tmp_path / "results.md").read_text(encoding="utf-8")
    assert (
        "| digits-softmax | float32 | 16 | slow | 8.00 s | 6.00 s | cg | 1.00 s | 0.50 s | **8.0** | **12.0** |"
        in text
    )
    assert "stops at 2.0e-03" in text

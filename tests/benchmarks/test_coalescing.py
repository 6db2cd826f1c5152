from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import coalescing
from benchmarks.coalescing import ARMS, TOGETHER, measure_coalescing
from benchmarks.rows import Row

pytestmark = pytest.mark.service


def test_queued_jobs_are_solved_together_and_one_by_one_by_real_workers_with_fewer_products_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole_row = coalescing._row

    def small_row(hidden: Sequence[int]) -> Row:
        return replace(whole_row(hidden), points=200)

    monkeypatch.setattr(coalescing, "_row", small_row)
    monkeypatch.setattr(coalescing, "HIDDEN", ((4,),))
    monkeypatch.setattr(coalescing, "JOBS", 8)
    lines: list[str] = []
    (network,) = measure_coalescing(tmp_path, quick=True, tell=lines.append)
    assert network["parameters"] == 64 * 4 + 4 + 4 * 10 + 10
    assert list(network["ways"]) == list(ARMS)
    assert len(lines) == len(ARMS)
    products = {name: way["products"] for name, way in network["ways"].items()}
    assert products[TOGETHER] < products["one by one, without reuse"]
    assert products["one by one, with reuse"] < products["one by one, without reuse"]

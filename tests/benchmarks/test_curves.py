from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.contestants import CONTESTANTS, Contestant, Server
from benchmarks.curves import overhead
from benchmarks.curves.growth import growth_with_parameters, growth_with_points, slope
from benchmarks.curves.overhead import history_overhead
from benchmarks.curves.right_hand_sides import block_speed_up
from benchmarks.problem_files import Problem
from benchmarks.rows import ROWS, Row


@pytest.fixture(scope="module")
def server() -> Any:
    with Server(Contestant("ihvp cg", "ihvp_solvers", None, {"method": "cg"})) as server:
        yield server


def test_slopes_are_exponents() -> None:
    assert slope([(10, 5.0), (100, 50.0), (1000, 500.0)]) == pytest.approx(1.0)
    assert slope([(10, 3.0), (100, 300.0)]) == pytest.approx(2.0)
    assert slope([(10, 3.0)]) is None


def test_growth_with_points_repeats_the_same_solve_on_more_points(
    small_row: Row, small_problem: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(small_problem.parent)
    once, twice = growth_with_points(small_row, small_problem, server, quick=True)
    assert (once["points"], twice["points"]) == (60, 120)
    assert abs(once["iterations"] - twice["iterations"]) <= 1
    assert once["peak_bytes"] >= once["base_bytes"] > 2**20


@pytest.mark.parametrize("name", sorted(ROWS))
def test_networks_of_every_row_grow_in_their_parameters(name: str, tmp_path: Path, monkeypatch: Any) -> None:
    row = ROWS[name]
    problem = _untrained(row)
    monkeypatch.setattr("benchmarks.curves.growth.read_problem", lambda *_: problem)
    # Sizes are asserted, not times: nobody has to measure which way of multiplying is the fastest.
    monkeypatch.setattr("benchmarks.curves.growth.EXPECTED", 1)
    monkeypatch.setattr("benchmarks.curves.growth.PRODUCTS_TIMED", 1)
    sizes = [at["parameters"] for at in growth_with_parameters(row, tmp_path, quick=True)]
    assert len(sizes) == 3
    assert sizes == sorted(set(sizes))


def test_blocks_of_right_hand_sides_are_solved_and_counted(
    small_problem: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(small_problem.parent)
    found = block_speed_up(small_problem, server, repeats=1, quick=True)
    assert [at["count"] for at in found] == [1, 4, 16]
    assert all(at["products"] >= at["iterations"] > 0 for at in found)


@pytest.mark.service
def test_the_cost_of_the_live_history_is_measured_beside_solves_without_one(
    small_problem: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overhead, "QUICK_SECONDS", 0.0)
    monkeypatch.setattr(overhead, "LEAST_ROUNDS", 2)
    monkeypatch.setattr(overhead, "COUNT", 2)
    found = history_overhead(small_problem, quick=True)
    assert found["rounds"] == 2
    assert set(found["callbacks"]) == {"history", "service"}
    for callback in found["callbacks"].values():
        assert 0 < callback["inside"] < 1
        assert callback["milliseconds"] > 0


def test_every_adapter_serves_somebody() -> None:
    folder = Path(overhead.__file__).parent.parent / "adapters"
    adapters = {path.stem for path in folder.glob("*.py")} - {"__init__", "__main__", "contestant"}
    assert {contestant.adapter for contestant in CONTESTANTS} == adapters


def _untrained(row: Row) -> Problem:
    from benchmarks.problem_files import build_module
    from benchmarks.training import _data

    x, y = _data(row)
    module = build_module(row.architecture).eval()
    b = torch.zeros(1, sum(p.numel() for p in module.parameters()))
    return Problem(module, torch.nn.CrossEntropyLoss(), x[:8], y[:8], row.damping, b, b)

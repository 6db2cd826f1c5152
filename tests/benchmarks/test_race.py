from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks import race as racing
from benchmarks.contestants import Contestant, Server
from benchmarks.race import Cell, race


@pytest.fixture
def server() -> Any:
    with Server(Contestant("ihvp cg", "ihvp_solvers", None, {"method": "cg"})) as server:
        yield server


def _cell(folder: Path, count: int) -> Cell:
    return Cell(folder, "float32", count, threads=1, quick=True)


def test_a_contestant_solves_cold_and_warm_and_is_judged(
    small_problem: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = Contestant("ihvp cg", "ihvp_solvers", None, {"method": "cg"})
    typo = Contestant("ihvp typo", "ihvp_solvers", None, {"method": "cg", "no_such_option": 1})
    peer = Contestant("peer", "peer", "peer")
    monkeypatch.setattr(racing, "CONTESTANTS", (ours, typo, peer))
    monkeypatch.chdir(small_problem.parent)
    lines: list[str] = []
    entries = race(
        _cell(small_problem, 4), {"ihvp_solvers": server}, {"peer": "not installed: no network"}, None, lines.append
    )
    solved = entries["ihvp cg"]
    assert solved["reached"]
    assert solved["residual"] <= 1e-5
    assert solved["cold_median"] > 0
    assert solved["warm_median"] > 0
    assert "no_such_option" in entries["ihvp typo"]["remark"]
    assert not entries["ihvp typo"]["reached"]
    assert entries["peer"]["remark"] == "not installed: no network"
    assert len(lines) == 3


def test_a_solve_past_its_limit_is_ended_and_said_so(
    small_problem: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = Contestant("ihvp cg", "ihvp_solvers", None, {"method": "cg"})
    monkeypatch.setattr(racing, "CONTESTANTS", (ours,))
    monkeypatch.setattr(racing, "LIMIT", 1e-4)
    monkeypatch.chdir(small_problem.parent)
    entry = race(_cell(small_problem, 1), {"ihvp_solvers": server}, {}, None, lambda line: None)["ihvp cg"]
    assert entry["cold"] == []
    assert entry["remark"] == "> 0 s"


def test_who_was_too_slow_with_fewer_right_hand_sides_is_not_run_again(
    small_problem: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = Contestant("peer", "peer", "peer", one_by_one=True)
    monkeypatch.setattr(racing, "CONTESTANTS", (slow,))
    before = {
        "peer": {"count": 1, "cold_median": 5.0, "warm_median": 4.0, "predicted": None, "remark": None, "rtol": 1e-5}
    }
    entry = race(_cell(small_problem, 16), {}, {}, before, lambda line: None)["peer"]
    assert entry["predicted"] == 65.0
    assert entry["remark"] == "> 15 s"

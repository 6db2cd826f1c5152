from __future__ import annotations

import shutil
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


def _cell(folder: Path, count: int, **changes: Any) -> Cell:
    return Cell(folder, "float32", count, **{"threads": 1, "quick": True, **changes})


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
    told = [line for line in lines if "/3 " in line]
    assert [line.strip().split(":")[0] for line in told] == ["1/3 ihvp cg", "2/3 ihvp typo", "3/3 peer"]
    assert solved["spent"] >= solved["cold"][0] + solved["warm"][0]
    assert solved["facts"]["cold"]["products"] >= solved["iterations"]


def test_a_solve_past_its_limit_is_ended_and_said_so(
    small_problem: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = Contestant("ihvp cg", "ihvp_solvers", None, {"method": "cg"})
    monkeypatch.setattr(racing, "CONTESTANTS", (ours,))
    monkeypatch.chdir(small_problem.parent)
    entry = race(_cell(small_problem, 1, limit=1e-4), {"ihvp_solvers": server}, {}, None, lambda line: None)["ihvp cg"]
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
    assert entry["remark"] == "> 30 s"


class _Paced:
    """A contestant's process that says how long it took, without taking it, and solves as another one did."""

    def __init__(self, solved: Path, cold: dict[str, float]) -> None:
        self._solved = solved
        self._cold = cold
        self.jobs: list[tuple[str, float]] = []

    def run(self, job: dict[str, Any]) -> dict[str, Any]:
        name = job["settings"]["name"]
        self.jobs.append((name, job["limit"]))
        for which in ("cold", "warm"):
            shutil.copy(self._solved / f"{which}.npy", Path(job["out"]) / f"{which}.npy")
        facts = {"iterations": 3}
        seconds = self._cold[name]
        return {"status": "ok", "cold": seconds, "warm": seconds, "facts": facts, "warm_facts": facts, "peak_bytes": 1}


def test_only_who_can_decide_a_ratio_is_waited_for_and_run_again(
    small_problem: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(small_problem.parent)
    ours = Contestant("ihvp cg", "ihvp_solvers", None, {"method": "cg"})
    monkeypatch.setattr(racing, "CONTESTANTS", (ours,))
    race(_cell(small_problem, 2), {"ihvp_solvers": server}, {}, None, lambda line: None)
    (small_problem.parent / ".bench/runs/paced").mkdir(parents=True, exist_ok=True)
    pace = {"fast": 2.0, "close": 2.5, "far": 9.0}
    peers = tuple(Contestant(name, "paced", "peer", {"name": name}, one_by_one=name != "fast") for name in pace)
    monkeypatch.setattr(racing, "CONTESTANTS", peers)
    paced: Any = _Paced(small_problem.parent / ".bench/runs/ihvp_solvers", pace)
    entries = race(_cell(small_problem, 2, quick=False), {"paced": paced}, {}, None, lambda line: None)
    assert {name: len(entry["cold"]) for name, entry in entries.items()} == {"fast": 3, "close": 3, "far": 1}
    # 8 times the fastest so far, of whom there is none at first.
    assert paced.jobs[:3] == [("fast", 30.0), ("close", 16.0), ("far", 16.0)]

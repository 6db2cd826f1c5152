from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import Tensor

from benchmarks import race as racing
from benchmarks.adapters.contestant import TookTooLong, run_job
from benchmarks.contestants import Contestant, Server, taking_part
from benchmarks.race import Cell, race


@pytest.fixture(scope="module")
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


def test_who_was_stopped_or_slow_in_both_solves_with_fewer_right_hand_sides_is_not_run_with_more(
    small_problem: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"method": "cg"}
    names = ("fast", "stopped", "slow", "slow once")
    monkeypatch.setattr(racing, "CONTESTANTS", tuple(Contestant(n, "ihvp_solvers", None, settings) for n in names))
    monkeypatch.chdir(small_problem.parent)
    shared = {"count": 2, "predicted": None, "remark": None, "rtol": 1e-5, "reached": True}
    before = {
        "fast": {**shared, "cold_median": 1.0, "warm_median": 1.0},
        "stopped": {**shared, "cold_median": None, "warm_median": None, "remark": "> 6 s", "reached": False},
        "slow": {**shared, "cold_median": 3.0, "warm_median": None},
        "slow once": {**shared, "cold_median": 3.0, "warm_median": 1.5},
    }
    entries = race(_cell(small_problem, 4), {"ihvp_solvers": server}, {}, before, lambda line: None)
    assert {name: entry["remark"] for name, entry in entries.items() if not entry["reached"]} == {
        "stopped": "> 6 s with 2",
        "slow": "> 2 × the fastest with 2",
    }
    again = {name: {**entry, "count": 4} for name, entry in entries.items()}
    entries = race(_cell(small_problem, 8), {"ihvp_solvers": server}, {}, again, lambda line: None)
    assert entries["stopped"]["remark"] == "> 6 s with 2"
    assert entries["slow"]["remark"] == "> 2 × the fastest with 2"
    of_one = {name: {**entry, "count": 1} for name, entry in before.items()}
    entries = race(_cell(small_problem, 2), {"ihvp_solvers": server}, {}, of_one, lambda line: None)
    assert entries["slow"]["reached"]


def test_a_dense_solver_takes_part_where_its_matrices_are_small(
    small_problem: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    cg = Contestant("ihvp cg", "ihvp_solvers", None, {"method": "cg"}, keeps=True)
    direct = Contestant("ihvp direct", "ihvp_solvers", None, {"method": "direct"}, keeps=True, dense=True)
    assert taking_part((cg, direct), 650, 8) == [cg, direct]
    assert taking_part((cg, direct), 3_000, 4) == [cg, direct]
    assert taking_part((cg, direct), 3_000, 8) == [cg]
    assert taking_part((cg, direct), 26_122, 4) == [cg]
    monkeypatch.setattr(racing, "CONTESTANTS", (direct,))
    monkeypatch.chdir(small_problem.parent)
    entry = race(_cell(small_problem, 2), {"ihvp_solvers": server}, {}, None, lambda line: None)["ihvp direct"]
    assert entry["reached"]
    assert entry["iterations"] is None
    assert entry["facts"]["cold"]["products"] >= 650 > entry["facts"]["warm"]["products"]


def test_an_alarm_that_compiled_code_turns_into_its_own_error_is_still_a_limit(
    small_problem: Path, tmp_path: Path
) -> None:
    class _Compiled:
        def solve(self, rhs: Tensor) -> Tensor:
            try:
                time.sleep(10.0)
            except TookTooLong as error:
                raise RuntimeError("the interpreter failed") from error
            return rhs

        def facts(self) -> dict[str, Any]:
            return {}

    job = {"problem": str(small_problem), "dtype": "float32", "count": 1, "rtol": 1e-5, "settings": {}, "threads": 1}
    run_job(lambda *_: _Compiled(), {**job, "limit": 0.05, "warm": False, "out": str(tmp_path)})
    assert json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))["status"] == "too long"


class _Paced:
    """A contestant's process that says how long it took, without taking it, and solves as another one did.

    ``wrong`` is the relative error of some in their solutions.
    """

    def __init__(
        self,
        solved: Path,
        cold: dict[str, float],
        *,
        wrong: dict[str, float] | None = None,
        own_residual: float | None = None,
    ) -> None:
        self._solved = solved
        self._wrong = wrong or {}
        self._cold = cold
        self._facts = {"iterations": 3, "own_residual": own_residual}
        self.jobs: list[tuple[str, float]] = []

    def run(self, job: dict[str, Any]) -> dict[str, Any]:
        name = job["settings"]["name"]
        self.jobs.append((name, job["limit"]))
        seconds = self._cold[name]
        report = {"status": "ok", "cold": seconds, "facts": self._facts, "peak_bytes": 1}
        if job["warm"] and seconds <= job.get("warm_within", math.inf):
            report |= {"warm": seconds, "warm_facts": self._facts}
        for which in {"cold", "warm"} & set(report):
            solution = np.load(self._solved / f"{which}.npy")
            np.save(Path(job["out"]) / f"{which}.npy", solution * (1 + self._wrong.get(name, 0.0)))
        return report


@pytest.fixture
def solved(small_problem: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder of the solutions of two right-hand sides, beside one for those who only say how long they take."""
    monkeypatch.chdir(small_problem.parent)
    monkeypatch.setattr(racing, "CONTESTANTS", (Contestant("ihvp cg", "ihvp_solvers", None, {"method": "cg"}),))
    race(_cell(small_problem, 2), {"ihvp_solvers": server}, {}, None, lambda line: None)
    runs = small_problem.parent / ".bench/runs"
    (runs / "paced").mkdir(parents=True, exist_ok=True)
    return runs / "ihvp_solvers"


def _race_of(paced: Any, pace: dict[str, float], cell: Cell, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    peers = tuple(Contestant(name, "paced", "peer", {"name": name}, keeps=name == "keeps") for name in pace)
    monkeypatch.setattr(racing, "CONTESTANTS", peers)
    return race(cell, {"paced": paced}, {}, None, lambda line: None)


def test_only_who_can_decide_a_ratio_is_waited_for_run_again_and_solves_twice(
    small_problem: Path, solved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pace = {"fast": 2.0, "close": 2.4, "far": 5.0, "keeps": 9.0}
    paced = _Paced(solved, pace)
    entries = _race_of(paced, pace, _cell(small_problem, 2, quick=False), monkeypatch)
    assert {name: len(entry["cold"]) for name, entry in entries.items()} == {
        "fast": 3,
        "close": 3,
        "far": 1,
        "keeps": 1,
    }
    assert {name: len(entry["warm"]) for name, entry in entries.items()} == {
        "fast": 3,
        "close": 3,
        "far": 0,
        "keeps": 1,
    }
    # 4 times the fastest so far, of whom there is none at first; never of who prepares itself.
    assert paced.jobs[:4] == [("fast", 30.0), ("close", 8.0), ("far", 8.0), ("keeps", 30.0)]


def test_long_solves_are_not_repeated(small_problem: Path, solved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entries = _race_of(
        _Paced(solved, {"fast": 11.0}), {"fast": 11.0}, _cell(small_problem, 2, quick=False), monkeypatch
    )
    assert entries["fast"]["cold"] == [11.0]


def test_who_misses_the_tolerance_is_asked_for_less_unless_slow_or_with_other_products(
    small_problem: Path, solved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pace, wrong = {"fast": 2.0, "slow": 5.0}, {"slow": 1e-3, "other": 1e-3, "wrong": 1e-3}
    slow = _race_of(_Paced(solved, pace, wrong=wrong), pace, _cell(small_problem, 2), monkeypatch)["slow"]
    assert not slow["reached"]
    assert slow["remark"] == "stops at 1.0e-03, too slow for being asked for less"
    other = _Paced(solved, {"other": 2.0}, wrong=wrong, own_residual=9e-6)
    entry = _race_of(other, {"other": 2.0}, _cell(small_problem, 2), monkeypatch)["other"]
    assert entry["remark"] == "stops at 1.0e-03; at 9.0e-06 by its own products, which are not the judge's"
    assert len(other.jobs) == 1
    wrong_only = _Paced(solved, {"wrong": 2.0}, wrong=wrong)
    _race_of(wrong_only, {"wrong": 2.0}, _cell(small_problem, 2), monkeypatch)
    assert len(wrong_only.jobs) == racing.TIGHTENINGS

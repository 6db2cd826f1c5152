"""`make load` measures a whole service with wrk, and says what it missed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.load.report import bars, write_load_report
from benchmarks.load.wrk import TrafficFailed, find_wrk, run_wrk

ROOT = Path(__file__).parents[2]
needs_wrk = pytest.mark.skipif(find_wrk() is None, reason="wrk is not installed: apt-get install wrk")


@pytest.fixture
def found() -> dict[str, Any]:
    """A run in which one bar was missed: polls at 0.65 of the floor."""
    path = ROOT / "tests/benchmarks/load_run.json"
    loaded: dict[str, Any] = json.loads(path.read_text())
    return loaded


def test_a_missed_bar_is_said(found: dict[str, Any], tmp_path: Path) -> None:
    missed = [what for what, _, _, reached in bars(found) if not reached]
    assert missed == ["polls beside the floor"]
    write_load_report(found, tmp_path)
    text = (tmp_path / "load.md").read_text()
    assert "| polls beside the floor | 0.65 | ≥ 0.7 | missed |" in text
    assert text.count("missed") == 1
    assert "| list ?tag= | 8.0 ms | 9.0 ms |" in text
    told = found["overhead"]["ways"]["submit with Prefer: wait"]["beside_the_solve_ms"]
    assert f"| submit with Prefer: wait | {told['p50']:.1f} ms | {told['p50'] / 4:.2f} |" in text
    assert (tmp_path / "load.png").stat().st_size > 10_000


@needs_wrk
@pytest.mark.chaos  # half a minute, of which nothing is about what the service does
@pytest.mark.service
@pytest.mark.timeout(400)
def test_a_quick_run_measures_everything(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.load", "--quick", "--kept", "50", "--out", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=380,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    found = json.loads((tmp_path / "load.json").read_text())
    assert all(told["rate"] > 0 for told in found["rates"]["served"].values())
    assert {rung["held"] >= rung["wanted"] for rung in found["streams"]} == {True}
    assert found["api"]["torch_loaded"] is False
    assert found["overhead"]["floor_ms"]["p50"] > 0
    for told in found["overhead"]["ways"].values():
        assert 0 < told["beside_the_solve_ms"]["p50"] < told["in_all_ms"]["p50"]
    (size,) = found["sizes"]
    assert size["kept"] == 50
    assert {name for name in size if name.startswith("list ?")} == {
        f"list ?{name}=" for name in ("state", "method", "model", "tag", "created_after", "created_before")
    }
    assert "A quick run" in (tmp_path / "load.md").read_text()


@needs_wrk
def test_errors_are_not_counted_as_served() -> None:
    with pytest.raises(TrafficFailed):
        run_wrk("http://127.0.0.1:9/nothing", 1)


def test_a_machine_without_wrk_is_told_how_to_get_it(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.load", "--quick", "--out", str(tmp_path)],
        cwd=ROOT,
        env={"PATH": str(tmp_path), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    assert "apt-get install wrk" in done.stderr

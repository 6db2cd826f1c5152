"""How many cores a process counts: those of its container, not those of the machine under it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ihvp.cores import usable_cores

MACHINE = len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("bound", "cores"),
    [("100000 100000\n", 1), ("50000 100000\n", 1), ("99999900000 100000\n", MACHINE), ("max 100000\n", MACHINE)],
)
def test_the_bound_of_the_control_group_counts(tmp_path: Path, bound: str, cores: int) -> None:
    (tmp_path / "cpu.max").write_text(bound)
    assert usable_cores(tmp_path) == cores


def test_so_does_one_of_the_older_kind(tmp_path: Path) -> None:
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("100000\n")
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    assert usable_cores(tmp_path) == 1


def test_without_one_it_is_what_the_process_may_run_on(tmp_path: Path) -> None:
    assert usable_cores(tmp_path / "none") == MACHINE

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks.rows import ROWS, Row
from benchmarks.training import prepare_problem


@pytest.fixture(autouse=True, scope="package")
def one_thread() -> Iterator[None]:
    """Small operations on a shared machine lose by more threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("benchmarks.solve_job.usable_cores", lambda: 1)
        yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def small_row() -> Row:
    architecture = {"type": "linear", "config": {"in_features": 64, "out_features": 10}}
    return replace(ROWS["digits-softmax"], name="small", architecture=architecture, points=60, training_steps=20)


@pytest.fixture(scope="session")
def small_problem(small_row: Row, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("problem")
    prepare_problem(small_row, folder)
    return folder

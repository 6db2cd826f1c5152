"""One thread, so that the suite is a good neighbour, and hypothesis without deadlines."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, settings

settings.register_profile(
    "solvers", deadline=None, max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    settings.load_profile("solvers")
    torch.set_num_threads(1)

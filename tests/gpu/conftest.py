"""Tests that need a CUDA device: without one they are not run, and the summary says so and why."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from tests.conftest import NOT_RUN


def missing() -> str | None:
    """Why there is no device, if there is none."""
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is built without CUDA"
    return None if torch.cuda.is_available() else "no CUDA device"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Takes the tests out where they cannot run: a skip would count as if they had been looked at."""
    wanting = [item for item in items if item.get_closest_marker("gpu")]
    if wanting and missing() is not None:
        items[:] = [item for item in items if item not in set(wanting)]
        config.hook.pytest_deselected(items=wanting)
        config.stash[NOT_RUN].add(f"{len(wanting)} tests marked gpu were not run: {missing()}")


@pytest.fixture
def device() -> Iterator[torch.device]:
    """The device, with whatever a test has left on it given back."""
    device = torch.device("cuda", torch.cuda.current_device())
    yield device
    torch.cuda.empty_cache()

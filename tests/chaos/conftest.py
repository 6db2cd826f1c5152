"""A cluster for each test; what must hold is checked at its end whatever the test itself looks at."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.cluster import Cluster


@pytest.fixture
def cluster(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """A store, and whatever parts the test starts."""
    cluster = Cluster(tmp_path / "chaos")
    try:
        yield cluster
        report = cluster.check()
        print(f"\n{request.node.name}: {report}")
        assert report.complaints == []
    finally:
        cluster.close()


@pytest.fixture
def running(cluster: Cluster) -> Cluster:
    """With an API, a reconciler and no worker yet."""
    cluster.api()
    cluster.reconciler()
    return cluster

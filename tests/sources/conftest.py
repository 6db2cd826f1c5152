"""Places that hold files, on loopback, and settings that open them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ihvp.settings import Settings
from tests.places import Places
from tests.sources.mlflow_server import MlflowServer
from tests.sources.web_server import WebServer, running_web_server


@pytest.fixture
def web() -> Iterator[WebServer]:
    with running_web_server() as server:
        yield server


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder that the operator has opened."""
    root = tmp_path / "open"
    root.mkdir()
    return root


@pytest.fixture
def settings(tmp_path: Path, root: Path) -> Settings:
    return Settings(
        data_dir=tmp_path / "data",
        source_roots=(root,),
        source_private_hosts=("127.0.0.1",),
        source_timeout_s=2.0,
        source_resolve_s=10.0,
    )


@pytest.fixture(scope="session")
def mlflow(places: Places) -> MlflowServer:
    """One MLflow server for the session: it takes seconds to start."""
    return places.mlflow

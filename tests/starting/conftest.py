"""A host for each test, on the store that the session shares."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ihvp.settings import Settings
from ihvp.up.embedded_store import EmbeddedStore
from tests.starting.started import Host, make_host


@pytest.fixture
def host(valkey: Settings, valkey_server: EmbeddedStore, tmp_path: Path) -> Iterator[Host]:
    """What a host with containers has."""
    folder = tmp_path / "host"
    folder.mkdir()
    made = make_host(folder, valkey_server, valkey)
    yield made
    made.close()

"""The real Valkey server that the tests share, and a fresh namespace in it for each test."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import redis

from examples.running_service import RunningService
from ihvp.settings import Settings
from ihvp.up.embedded_store import EmbeddedStore
from tests.places import Places

NOT_RUN = pytest.StashKey[set[str]]()
"""Lines on what was left out, and why."""


def pytest_configure(config: pytest.Config) -> None:
    """Makes room for what is not run."""
    config.stash[NOT_RUN] = set()


def pytest_deselected(items: Sequence[pytest.Item]) -> None:
    """Notes what `make test` leaves to `make chaos` and `make containers`."""
    for mark in ("chaos", "containers"):
        left = [item for item in items if item.get_closest_marker(mark)]
        if left:
            line = f"{len(left)} tests marked {mark} were not run: make {mark} runs them, for minutes"
            left[0].config.stash[NOT_RUN].add(line)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Of one process of several: tells the one that prints the summary."""
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["not_run"] = sorted(session.config.stash[NOT_RUN])


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Takes what another process has left out, which both have looked for."""
    node.config.stash[NOT_RUN].update(getattr(node, "workeroutput", {}).get("not_run", ()))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Says what was not run: nobody should take it for passed."""
    if config.stash[NOT_RUN]:
        terminalreporter.section("not run")
        for line in sorted(config.stash[NOT_RUN]):
            terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def valkey_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedStore]:
    """One server for the whole session."""
    server = EmbeddedStore(tmp_path_factory.mktemp("valkey server"))
    server.start()
    with redis.Redis.from_url(server.url) as client:
        # Syncing each write makes up most of a test's time; tests/up holds that the server does it as configured.
        client.config_set("appendfsync", "no")
    yield server
    server.stop()


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[EmbeddedStore]:
    """A server that nobody else talks to, which the test may stop: it syncs each write, as configured, and counts."""
    server = EmbeddedStore(tmp_path / "server")
    server.start()
    yield server
    server.stop()


@pytest.fixture
def valkey(valkey_server: EmbeddedStore, tmp_path: Path) -> Settings:
    """Settings of a service of its own on the shared server: a fresh namespace and data directory."""
    return Settings(
        redis_url=valkey_server.url,
        namespace=f"t-{secrets.token_hex(6)}",
        data_dir=tmp_path / "data",
    )


@pytest.fixture(scope="session")
def places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Places]:
    """Where referenced files may be; the tests' own folders are open to ``file://``."""
    places = Places(tmp_path_factory.mktemp("places"), tmp_path_factory.getbasetemp())
    yield places
    places.close()


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory, places: Places) -> Iterator[RunningService]:
    """The whole service as ``ihvp up`` runs it, in a path with spaces, shared by the session.

    A test may kill parts of it and has to leave it ready again.
    """
    with RunningService(tmp_path_factory.mktemp("a service") / "data dir", **places.settings) as running:
        running.wait_until_ready()
        yield running

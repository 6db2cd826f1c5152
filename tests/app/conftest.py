"""A running API for each test module, on the real Valkey server."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from typing import Any

import httpx
import pytest

from ihvp.blobs.filesystem import FilesystemBlobStore
from ihvp.jobs.redis_store import RedisJobStore
from ihvp.settings import Settings
from ihvp.up.embedded_store import EmbeddedStore
from tests.app.driver import Service, running_api

MakeService = Callable[..., Service]


@contextmanager
def running_service(settings: Settings) -> Iterator[Service]:
    with (
        running_api(settings) as url,
        httpx.Client(base_url=url, timeout=20) as http,
        closing(RedisJobStore.from_settings(settings)) as jobs,
    ):
        yield Service(settings, http, jobs, FilesystemBlobStore(settings.blob_dir, settings.max_store_bytes))


@pytest.fixture(scope="module")
def module_settings(valkey_server: EmbeddedStore, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Of a service for a whole module, on the shared server."""
    return Settings(
        redis_url=valkey_server.url,
        namespace=f"t-{secrets.token_hex(6)}",
        data_dir=tmp_path_factory.mktemp("data"),
        log_level="error",
    )


@pytest.fixture(scope="module")
def service(module_settings: Settings) -> Iterator[Service]:
    """The service that a module's tests share: they name their own models and jobs."""
    with running_service(module_settings) as running:
        yield running


@pytest.fixture
def make_service(valkey: Settings) -> Iterator[MakeService]:
    """Starts a service with other settings."""
    with ExitStack() as stack:

        def make(**changes: Any) -> Service:
            settings = valkey.model_copy(update={"log_level": "error", **changes})
            return stack.enter_context(running_service(settings))

        yield make

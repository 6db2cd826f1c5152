"""The store of a data directory, whether ``ihvp up`` runs on it now or not."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

from ihvp.errors import SetupError
from ihvp.jobs.redis_store import RedisJobStore
from ihvp.keys.redis_store import RedisKeyStore
from ihvp.settings import Settings
from ihvp.up.embedded_store import EmbeddedStore
from ihvp.up.exclusive import locked_data_dir

__all__ = ["embedded_keys", "jobs_at_hand", "keys_at_hand", "needs_a_key", "running_store", "settings_at_hand"]


@contextmanager
def settings_at_hand(settings: Settings) -> Iterator[Settings]:
    """Settings that name the store which these mean; its own password opens it, so no key is needed.

    With ``IHVP_REDIS_URL`` that is the store there. Without, it is the embedded one of the data directory: what
    ``ihvp up`` runs, or, where nothing runs, one that is started for as long as this lasts.

    Raises:
        SetupError: The embedded store cannot be started, or its server is not to be found.
    """
    if "redis_url" in settings.model_fields_set:
        yield settings
        return
    data_dir = settings.data_dir.absolute()
    with ExitStack() as stack:
        try:
            stack.enter_context(locked_data_dir(data_dir))
        except SetupError:
            store = running_store(data_dir)
        else:
            store = stack.enter_context(_started(EmbeddedStore(data_dir)))
        yield settings.model_copy(update={"redis_url": store.url})


@contextmanager
def keys_at_hand(settings: Settings) -> Iterator[RedisKeyStore]:
    """The keys of the store that the settings mean.

    Raises:
        SetupError: As of ``settings_at_hand``.
        StoreUnavailable: It does not answer.
    """
    with settings_at_hand(settings) as found, closing(RedisKeyStore.from_settings(found)) as keys:
        yield keys


@contextmanager
def jobs_at_hand(settings: Settings) -> Iterator[RedisJobStore]:
    """The job store that the settings mean, in the same way."""
    with settings_at_hand(settings) as found, closing(RedisJobStore.from_settings(found)) as jobs:
        yield jobs


@contextmanager
def embedded_keys(settings: Settings, store: EmbeddedStore) -> Iterator[RedisKeyStore]:
    """The keys of an embedded store that does not run: it does for as long as this lasts."""
    with _started(store):
        found = settings.model_copy(update={"redis_url": store.url})
        with closing(RedisKeyStore.from_settings(found)) as keys:
            yield keys


def needs_a_key(settings: Settings, data_dir: Path) -> bool:
    """Whether callers of a service that starts now would need a key; the data directory is to be locked already."""
    if "redis_url" in settings.model_fields_set:
        with closing(RedisKeyStore.from_settings(settings)) as keys:
            return keys.look("").guarded
    if not (data_dir / "store").is_dir():
        return False
    with embedded_keys(settings, EmbeddedStore(data_dir)) as keys:
        return keys.look("").guarded


@contextmanager
def _started(store: EmbeddedStore) -> Iterator[EmbeddedStore]:
    store.start()
    try:
        yield store
    finally:
        store.stop()


def running_store(data_dir: Path) -> EmbeddedStore:
    """The store that a running service has started on its data directory.

    Raises:
        SetupError: It has none of its own.
    """
    path = data_dir / "store" / "server.conf"
    try:
        found = re.search(r"^port (\d+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:
        found = None
    if found is None:
        raise SetupError(
            "The service on this data directory has no store of its own here.",
            given=str(data_dir),
            hint="Set IHVP_REDIS_URL to the store that it uses.",
        )
    return EmbeddedStore(data_dir, port=int(found[1]))

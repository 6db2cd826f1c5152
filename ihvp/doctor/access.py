"""Who reaches the API, and whether they need a key."""

from __future__ import annotations

from contextlib import closing
from typing import Final

from ihvp.doctor.finding import Finding
from ihvp.errors import IhvpError
from ihvp.keys.redis_store import RedisKeyStore
from ihvp.settings import Settings
from ihvp.starting.published import published_host
from ihvp.surroundings import command
from ihvp.up.exclusive import is_loopback

__all__ = ["look_at_access"]

PATIENCE_S: Final = 3.0
FIRST_KEY: Final = "keys create NAME --scope admin"


def look_at_access(settings: Settings, store_there: bool) -> Finding:
    """Whether only this machine reaches the API, or callers need a key.

    A fault where they would need none: the API does not start so, and in containers nothing else should either. The
    first key is made in the store, which needs no API.

    Args:
        settings: Where the API listens or is published, and its store.
        store_there: Whether that store was reached.
    """
    host, mend = published_host(settings), command(FIRST_KEY)
    if is_loopback(host):
        return Finding.good("access", f"only this machine reaches {host}")
    if not store_there:
        return Finding.warning(
            "access", f"others reach {host}; whether there is a key cannot be told without the store", mend
        )
    try:
        with closing(RedisKeyStore.from_settings(settings.with_patience(PATIENCE_S))) as keys:
            guarded = keys.look("").guarded
    except IhvpError as error:
        return Finding.warning("access", f"others reach {host}; whether there is a key is not known: {error}", mend)
    if guarded:
        return Finding.good("access", f"others reach {host}, and callers need a key")
    return Finding.fault("access", f"others would reach {host} without a key, so the API does not start", mend)

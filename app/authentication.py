"""Who calls: the API key of a request, looked up in the store at most every other second."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ihvp.errors import IhvpError, Unauthenticated
from ihvp.keys.key import KeyState, Scope, Secret
from ihvp.tenants import DEFAULT_TENANT

if TYPE_CHECKING:
    from ihvp.keys.redis_store import AsyncRedisKeyStore
    from ihvp.keys.store import Looked

__all__ = ["Authenticator", "Caller"]

TRUSTED_S: Final = 2.0
"""How long what the store has said of a key is believed: so long a revoked one may still be used."""
REMEMBERED: Final = 1024
USE_NOTED_S: Final = 60.0
# Compared with where there is no such key, so that the time taken does not tell.
NO_KEY: Final = Secret("0" * 12, "").sha256


@dataclass(frozen=True)
class Caller:
    """Who sends a request.

    Attributes:
        key_id: Of the key; None while no key is needed.
    """

    tenant: str
    scope: Scope
    key_id: str | None


ANYBODY: Final = Caller(DEFAULT_TENANT, Scope.Admin, None)


class Authenticator:
    """Tells callers by their keys.

    Args:
        keys: Where keys are.
    """

    def __init__(self, keys: AsyncRedisKeyStore) -> None:
        self._keys = keys
        self._known: OrderedDict[str, tuple[float, asyncio.Task[Looked]]] = OrderedDict()
        self._noted: dict[str, float] = {}
        self._notes: set[asyncio.Task[None]] = set()

    async def caller(self, authorization: str | None) -> Caller:
        """Whose the request with this ``Authorization`` is.

        Raises:
            Unauthenticated: A key is needed, and this is none that is known and valid.
            StoreUnavailable: The store does not say.
        """
        kind, _, given = (authorization or "").partition(" ")
        secret = Secret.parse(given.strip()) if kind.lower() == "bearer" else None
        looked = await self._look(secret.id if secret else "")
        if not looked.guarded:
            return ANYBODY
        if authorization is None:
            raise _refusal("This service needs an API key.")
        if secret is None:
            raise _refusal("This is not written as an API key.")
        key = looked.key
        if not secret.opens(key.sha256 if key else NO_KEY) or key is None:
            raise _refusal("No such API key is known.")
        if key.state is not KeyState.Active:
            raise _refusal(f"The API key is {key.state.value}.", given=f"key {key.id}")
        self._note_use(key.id)
        return Caller(key.tenant, key.scope, key.id)

    async def _look(self, key_id: str) -> Looked:
        now = time.monotonic()
        until, task = self._known.get(key_id, (0.0, None))
        if task is None or until < now:
            # One look serves all who ask at a time.
            task = asyncio.create_task(self._keys.look(key_id))
            # Where all who asked have gone, nobody takes the error.
            task.add_done_callback(lambda done: done.cancelled() or done.exception())
            self._known[key_id] = now + TRUSTED_S, task
            self._known.move_to_end(key_id)
            if len(self._known) > REMEMBERED:
                self._known.popitem(last=False)
        try:
            return task.result() if task.done() else await asyncio.shield(task)
        except IhvpError:
            if self._known.get(key_id, (0.0, None))[1] is task:
                del self._known[key_id]
            raise

    def _note_use(self, key_id: str) -> None:
        now = time.monotonic()
        if now - self._noted.get(key_id, float("-inf")) < USE_NOTED_S:
            return
        if len(self._noted) > REMEMBERED:
            self._noted.clear()
        self._noted[key_id] = now
        note = asyncio.create_task(self._write_use(key_id))
        self._notes.add(note)
        note.add_done_callback(self._notes.discard)

    async def _write_use(self, key_id: str) -> None:
        with suppress(IhvpError):
            await self._keys.note_use(key_id)


def _refusal(message: str, given: str | None = None) -> Unauthenticated:
    return Unauthenticated(
        message,
        given=given,
        allowed="Authorization: Bearer ihvp_<id>_<secret>",
        hint="The operator makes one with 'ihvp keys create'; the client and the CLI read IHVP_API_KEY.",
    )

"""Keys in plain Python: the readable model of the semantics."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta

from ihvp.keys.key import KeyRecord, KeySpec, KeyState
from ihvp.keys.store import Looked, key_not_found

__all__ = ["MemoryKeyStore"]


class MemoryKeyStore:
    """``KeyStore`` within one process; nothing outlives it.

    Args:
        clock: The store's time, with a time zone.
    """

    def __init__(self, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._clock = clock
        self._keys: dict[str, KeyRecord] = {}

    def create(self, key_id: str, spec: KeySpec, *, expires_s: float | None = None) -> KeyRecord:
        """See ``KeyStore.create``."""
        now = self._clock()
        expires = None if expires_s is None else now + timedelta(seconds=expires_s)
        self._keys[key_id] = KeyRecord(
            **spec.model_dump(), id=key_id, state=KeyState.Active, created_at=now, expires_at=expires
        )
        return self._now(key_id)

    def look(self, key_id: str) -> Looked:
        """See ``KeyStore.look``."""
        return Looked(bool(self._keys), self._now(key_id) if key_id in self._keys else None)

    def list(self) -> Sequence[KeyRecord]:
        """See ``KeyStore.list``."""
        return [self._now(key_id) for key_id in self._keys]

    def revoke(self, key_id: str) -> KeyRecord:
        """See ``KeyStore.revoke``."""
        if key_id not in self._keys:
            raise key_not_found(key_id)
        if self._keys[key_id].revoked_at is None:
            self._keys[key_id] = self._keys[key_id].model_copy(update={"revoked_at": self._clock()})
        return self._now(key_id)

    def note_use(self, key_id: str) -> None:
        """See ``KeyStore.note_use``."""
        if key_id in self._keys:
            self._keys[key_id] = self._keys[key_id].model_copy(update={"used_at": self._clock()})

    def _now(self, key_id: str) -> KeyRecord:
        key = self._keys[key_id]
        expired = key.expires_at is not None and key.expires_at <= self._clock()
        state = KeyState.Revoked if key.revoked_at else KeyState.Expired if expired else KeyState.Active
        return key.model_copy(update={"state": state})

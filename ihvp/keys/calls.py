"""Every operation on keys as a call to the server; the meaning is in the Lua files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ihvp.keys.key import KeyRecord, KeySpec, KeyState
from ihvp.keys.store import Looked, key_not_found
from ihvp.keyvalue.calls import Call, from_microseconds, microseconds

__all__ = ["KeyCalls"]


class KeyCalls:
    """Builds the calls."""

    def create(self, key_id: str, spec: KeySpec, expires_s: float | None) -> Call[KeyRecord]:
        """``KeyStore.create``."""
        expires = "" if expires_s is None else microseconds(expires_s)
        return Call("create", (key_id, spec.model_dump_json(), expires), _record)

    def look(self, key_id: str) -> Call[Looked]:
        """``KeyStore.look``."""
        return Call("look", (key_id,), lambda answer: Looked(bool(answer[0]), _record(answer[1])))

    def list(self) -> Call[Sequence[KeyRecord]]:
        """``KeyStore.list``."""
        return Call("list", (), lambda answer: sorted(map(_record, answer), key=lambda key: key.created_at))

    def revoke(self, key_id: str) -> Call[KeyRecord]:
        """``KeyStore.revoke``."""

        def parse(answer: Any) -> KeyRecord:
            if not answer:
                raise key_not_found(key_id)
            record: KeyRecord = _record(answer)
            return record

        return Call("revoke", (key_id,), parse)

    def note_use(self, key_id: str) -> Call[None]:
        """``KeyStore.note_use``."""
        return Call("note_use", (key_id,), lambda _: None)


def _record(answer: Any) -> Any:
    if not answer:
        return None
    key_id, spec, now, created, expires, revoked, used = answer
    expired = bool(expires) and int(expires) <= int(now)
    return KeyRecord(
        **KeySpec.model_validate_json(spec).model_dump(),
        id=key_id,
        state=KeyState.Revoked if revoked else KeyState.Expired if expired else KeyState.Active,
        created_at=from_microseconds(int(created)),
        expires_at=from_microseconds(int(expires)) if expires else None,
        revoked_at=from_microseconds(int(revoked)) if revoked else None,
        used_at=from_microseconds(int(used)) if used else None,
    )

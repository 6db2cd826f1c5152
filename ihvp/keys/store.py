"""The contract of where keys are kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from ihvp.errors import KeyNotFound
from ihvp.keys.key import KeyRecord, KeySpec

__all__ = ["KeyStore", "Looked", "key_not_found"]


@dataclass(frozen=True)
class Looked:
    """What was found under a key's id.

    Attributes:
        guarded: Whether any key was ever made: only then one is needed.
        key: The key; None where none has this id.
    """

    guarded: bool
    key: KeyRecord | None


def key_not_found(key_id: str) -> KeyNotFound:
    """No key has this id."""
    return KeyNotFound("No key has this id.", given=key_id[:100], hint="'ihvp keys list' shows them.")


class KeyStore(Protocol):
    """Keys by their ids. A revoked one stays in the list, so that the last one does not open the service to all."""

    def create(self, key_id: str, spec: KeySpec, *, expires_s: float | None = None) -> KeyRecord:
        """Keeps a new key.

        Args:
            key_id: Must be new.
            spec: What it is for.
            expires_s: Seconds from now after which it opens nothing; None: never.
        """

    def look(self, key_id: str) -> Looked:
        """The key with this id, and whether one is needed at all."""

    def list(self) -> Sequence[KeyRecord]:
        """All keys, oldest first."""

    def revoke(self, key_id: str) -> KeyRecord:
        """Has a key open nothing from now on; doing it again changes nothing.

        Raises:
            KeyNotFound: No key has this id.
        """

    def note_use(self, key_id: str) -> None:
        """Notes that a key was used just now."""

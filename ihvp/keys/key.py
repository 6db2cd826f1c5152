"""An API key: how it is written, and what is kept of it."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Final

from pydantic import BaseModel, ConfigDict, Field

from ihvp.tenants import TENANT_PATTERN

__all__ = ["KEY_ID_PATTERN", "KeyRecord", "KeySpec", "KeyState", "Scope", "Secret"]

KEY_ID_PATTERN: Final = r"^[0-9a-f]{12}$"
_WRITTEN: Final = re.compile(r"ihvp_([0-9a-f]{12})_([0-9a-f]{64})")


class Scope(str, Enum):
    """What a key allows; each allows what those before it do."""

    Read = "read"
    Submit = "submit"
    Admin = "admin"

    def allows(self, needed: Scope) -> bool:
        """Whether a key of this scope may do what needs that one."""
        order = list(Scope)
        return order.index(self) >= order.index(needed)


class KeyState(str, Enum):
    """Whether a key opens anything."""

    Active = "active"
    Expired = "expired"
    Revoked = "revoked"


@dataclass(frozen=True)
class Secret:
    """A key as its owner has it: ``ihvp_<id>_<secret>``.

    Attributes:
        id: Names the key in lists and logs; it opens nothing.
        secret: 256 random bits in hexadecimal digits.
    """

    id: str
    secret: str

    @classmethod
    def draw(cls) -> Secret:
        """A new one."""
        return cls(secrets.token_hex(6), secrets.token_hex(32))

    @classmethod
    def parse(cls, text: str) -> Secret | None:
        """Reads a key; None where it is written otherwise."""
        match = _WRITTEN.fullmatch(text)
        return None if match is None else cls(match[1], match[2])

    @property
    def sha256(self) -> str:
        """What is kept of the secret. It is random, so a slow hash would add nothing."""
        return hashlib.sha256(self.secret.encode()).hexdigest()

    def opens(self, sha256: str) -> bool:
        """Whether it is the secret of which this is kept; the time taken does not tell how much of it is right."""
        return hmac.compare_digest(self.sha256, sha256)

    def __str__(self) -> str:
        return f"ihvp_{self.id}_{self.secret}"

    def __repr__(self) -> str:
        return f"Secret(id={self.id!r})"


class KeySpec(BaseModel):
    """What is decided when a key is made."""

    model_config = ConfigDict(frozen=True)

    name: str = Field(min_length=1, max_length=100, description="Who has it, for lists.")
    tenant: str = Field(pattern=TENANT_PATTERN)
    scope: Scope
    sha256: str = Field(repr=False)


class KeyRecord(KeySpec):
    """A key as the store keeps it.

    Attributes:
        used_at: When it was last used, to about a minute; None if never.
    """

    id: str
    state: KeyState
    created_at: datetime
    expires_at: datetime | None = None
    revoked_at: datetime | None = None
    used_at: datetime | None = None

"""Idempotency-Key: what makes two requests the same one."""

from __future__ import annotations

import hashlib
import json
import re
from typing import TYPE_CHECKING, Final

from ihvp.errors import InvalidHeader
from ihvp.jobs.store import Once

if TYPE_CHECKING:
    from pydantic import BaseModel

__all__ = ["once_of"]

_KEY: Final = re.compile(r"^[\x21-\x7e]{1,255}$")


def once_of(key: str | None, sent: BaseModel | str, kept_s: float) -> Once | None:
    """Under what a request is done once; None where it has no key.

    The fingerprint is taken of what was sent, before any reference in it is resolved: ``@latest`` may have moved on
    when the request is repeated, and it is the same request all the same. Order of keys and spaces do not count.

    Args:
        key: The header.
        sent: The body; or where there is none, words that say what the request is.
        kept_s: How long the key is remembered.

    Raises:
        InvalidHeader: The key has characters that keys cannot have, or is too long.
    """
    if key is None:
        return None
    if not _KEY.match(key):
        raise InvalidHeader(
            "This is no Idempotency-Key.",
            given=repr(key)[:120],
            allowed="1 to 255 printable ASCII characters without spaces",
            hint="A random UUID makes a good one.",
        )
    said = sent if isinstance(sent, str) else sent.model_dump(mode="json")
    canonical = json.dumps(said, sort_keys=True, separators=(",", ":"))
    return Once(key, hashlib.sha256(canonical.encode()).hexdigest(), kept_s)

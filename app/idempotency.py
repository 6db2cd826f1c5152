"""Idempotency-Key: what makes two requests the same one."""

from __future__ import annotations

import hashlib
import json
import re
from typing import TYPE_CHECKING, Final

from ihvp.errors import InvalidHeader
from ihvp.jobs.store import Once

if TYPE_CHECKING:
    from ihvp.jobs.submission import JobSubmission

__all__ = ["once_of"]

_KEY: Final = re.compile(r"^[\x21-\x7e]{1,255}$")


def once_of(key: str | None, submission: JobSubmission, kept_s: float) -> Once | None:
    """Under what a submission is made once; None where it has no key.

    The fingerprint is taken of what was sent, before any reference in it is resolved: ``@latest`` may have moved on
    when the request is repeated, and it is the same request all the same. Order of keys and spaces do not count.

    Args:
        key: The header.
        submission: What was sent.
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
    sent = json.dumps(submission.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
    return Once(key, hashlib.sha256(sent.encode()).hexdigest(), kept_s)

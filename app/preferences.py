"""The Prefer header (RFC 7240), as far as submitting a job heeds it."""

from __future__ import annotations

import re
from typing import Final

__all__ = ["preferred_wait"]

_WAIT: Final = re.compile(r'\s*wait\s*=\s*"?(\d{1,9})"?\s*(?:;.*)?', re.IGNORECASE)


def preferred_wait(header: str | None) -> int | None:
    """The seconds of ``wait=`` in a Prefer header; None where there are none.

    A preference that cannot be read is left aside, as the RFC asks.
    """
    found = (_WAIT.fullmatch(part) for part in (header or "").split(","))
    return next((int(match[1]) for match in found if match), None)

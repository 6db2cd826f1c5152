"""Cursors of listings that are in the order of time."""

from __future__ import annotations

import re

from ihvp.errors import InvalidInput

__all__ = ["time_cursor"]


def time_cursor(cursor: str | None, *, listing: str, newest: str) -> int | None:
    """Reads the cursor of a listing, newest first: when the last entry on the page before was made, in µs since 1970.

    Args:
        cursor: As a page has given it out; None at the start.
        listing: What is listed, for the message.
        newest: Where a listing starts, for the hint.

    Raises:
        InvalidInput: It is none that a listing has given out.
    """
    if cursor is None:
        return None
    if not re.fullmatch(r"[0-9]{1,16}", cursor, re.ASCII):
        raise InvalidInput(
            f"This is not a cursor of {listing}.",
            given=cursor[:100],
            hint=f"Follow the link 'next' of the page before, or leave the cursor out to start at {newest}.",
        )
    return int(cursor)

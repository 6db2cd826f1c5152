"""When a delivery that failed is tried again."""

from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Final

__all__ = ["next_pause", "retry_after"]

JITTER: Final = 0.1
"""Deliveries that failed together do not come back together: up to this part of a pause is added."""


def next_pause(pauses: Sequence[float], failures: int, asked_s: float | None = None) -> float | None:
    """Seconds until the next try, or None after the last.

    Args:
        pauses: Between one try and the next, in seconds.
        failures: Tries that have failed, this one included.
        asked_s: What the receiver asked for: it may lengthen a pause, up to the longest of the schedule, never
            shorten it.
    """
    if failures > len(pauses):
        return None
    pause = max(pauses[failures - 1], min(asked_s or 0.0, max(pauses)))
    return pause * (1.0 + JITTER * random.random())


def retry_after(value: str | None, now: datetime) -> float | None:
    """Seconds that a ``Retry-After`` header asks for, as a number or a date; None where it says nothing readable."""
    if value is None:
        return None
    text = value.strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        moment = parsedate_to_datetime(text)
        return max(0.0, (moment - now).total_seconds())
    except (ValueError, TypeError, OverflowError):
        return None

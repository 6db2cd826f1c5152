"""Waiting for what a test cannot be told of."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

ValueT = TypeVar("ValueT")


def eventually(look: Callable[[], ValueT | None], timeout_s: float = 45.0, what: str = "it") -> ValueT:
    """The first value that is true; fails once the time is over."""
    end = time.monotonic() + timeout_s
    while not (value := look()):
        assert time.monotonic() < end, f"{what} did not happen within {timeout_s:g} s"
        time.sleep(0.01)
    return value

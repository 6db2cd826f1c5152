"""What is known of the request that is being answered, for whoever logs or answers within it."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Final

__all__ = ["JOB", "PROBLEM", "REQUEST_ID", "current_request_id"]

REQUEST_ID: Final[ContextVar[str | None]] = ContextVar("request_id", default=None)
PROBLEM: Final[ContextVar[str | None]] = ContextVar("problem", default=None)
"""The code of the error that the request is answered with, once it is."""
JOB: Final[ContextVar[str | None]] = ContextVar("job", default=None)
"""The job that the request has made, once it has."""


def current_request_id() -> str | None:
    """The id, or None outside of a request."""
    return REQUEST_ID.get()

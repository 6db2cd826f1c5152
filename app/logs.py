"""Log lines are one JSON object each, on standard error."""

from __future__ import annotations

import json
import logging
import sys
from typing import TYPE_CHECKING, Any

import structlog

from app.request_id import current_request_id

if TYPE_CHECKING:
    from structlog.typing import EventDict

__all__ = ["configure_logs"]


def configure_logs(level: str) -> None:
    """Sets structlog up for this process."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            _add_request_id,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            # One encoder for all lines: json.dumps makes one a call as soon as it is given an option.
            structlog.processors.JSONRenderer(serializer=_encode),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )


_encoder = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), default=str)


def _encode(event: EventDict, **_: Any) -> str:
    return _encoder.encode(event)


def _add_request_id(_: Any, __: str, event: EventDict) -> EventDict:
    request_id = current_request_id()
    if request_id is not None:
        event.setdefault("request_id", request_id)
    return event
